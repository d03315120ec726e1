// Training that starts from trained weights.
#include "train/initial_weights.h"

#include "engine/files.h"
#include "models/backbone.h"
#include "models/safetensors.h"
#include "models/weights_export.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_training.h"
#include "train/trainer.h"

namespace dino {
namespace {

using test::check_close;
using test::contains;
using test::DrawnPictures;
using test::error_of;
using test::TemporaryFolder;
using test::tiny_config;

/// A run's checkpoint: teacher and student that differ, with heads.
class Trained {
 public:
  Trained() {
    TrainConfig config = tiny_config();
    config.epochs = 2;
    config.momentum_teacher = 0.5;
    config.output_dir = path("run");
    const auto context = make_cpu_context();
    SingleProcess communicator;
    REQUIRE(train(*context, communicator, config, DrawnPictures(8), StartMode::fresh) == 0);
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string checkpoint() const { return path("run/last.safetensors"); }
  /// Its teacher's backbone alone.
  std::string backbone() const {
    write_weights(read_weights(checkpoint()), path("backbone.safetensors"), WeightsForm::official, DType::float32);
    return path("backbone.safetensors");
  }

 private:
  TemporaryFolder folder_;
};

struct Networks {
  explicit Networks(const TrainConfig& config)
      : context(make_cpu_context()), networks(*context, communicator, config, DType::float32) {}

  std::unique_ptr<Context> context;
  SingleProcess communicator;
  StudentTeacher networks;
};

TrainConfig starting_from(const std::string& file) {
  TrainConfig config = tiny_config();
  config.seed = 5;
  config.init = file;
  return config;
}

}  // namespace

TEST_CASE("student and teacher start from a checkpoint's teacher, head included") {
  const Trained trained;
  const TrainConfig config = starting_from(trained.checkpoint());
  Networks start(config);
  const std::vector<std::string> notes = load_initial_weights(start.networks, config);
  CHECK(contains(notes.at(0), "init: backbone and head from " + trained.checkpoint()));
  const WeightsFile file = read_weights(trained.checkpoint());
  ParameterStore& store = start.networks.store();
  for (const ParameterId id : store.layout.ids()) {
    const std::string& name = store.layout[id].name;
    const std::vector<float> values = file.read(name);
    const ConstArray expected(values.data(), file.shape(name));
    check_close(store.window(store.student, id).const_array(), expected, 0.0, name);
    check_close(store.window(store.teacher, id).const_array(), expected, 0.0, name);
  }
}

TEST_CASE("a backbone alone leaves the head as the seed makes it") {
  const Trained trained;
  const TrainConfig config = starting_from(trained.backbone());
  Networks start(config);
  Networks random(config);
  const std::vector<std::string> notes = load_initial_weights(start.networks, config);
  CHECK(contains(notes.at(0), "the head starts at random"));
  const WeightsFile file = read_weights(config.init);
  ParameterStore& store = start.networks.store();
  ParameterStore& drawn = random.networks.store();
  int of_backbone = 0;
  int of_head = 0;
  for (const ParameterId id : store.layout.ids()) {
    const std::string& name = store.layout[id].name;
    const bool backbone = name.starts_with("backbone.");
    const std::vector<float> values = backbone ? file.read(name) : std::vector<float>();
    const ConstArray expected =
        backbone ? ConstArray(values.data(), file.shape(name)) : drawn.window(drawn.student, id).const_array();
    check_close(store.window(store.student, id).const_array(), expected, 0.0, name);
    check_close(store.window(store.teacher, id).const_array(), expected, 0.0, name);
    ++(backbone ? of_backbone : of_head);
  }
  CHECK(of_backbone > 0);
  CHECK(of_head > 0);
}

TEST_CASE("at another crop size the network computes what the old one computed there") {
  const Trained trained;
  TrainConfig config = starting_from(trained.backbone());
  config.global_crops_size = 40;
  config.local_crops_size = 24;
  Networks start(config);
  const std::vector<std::string> notes = load_initial_weights(start.networks, config);
  CHECK(contains(notes.at(0), "position embedding resized from 16 to 40 pixels"));

  Backbone old(*start.context, config.init, DType::float32);
  const test::HostArray pixels = test::random_normal(DType::float32, {2, 3, 40, 40}, 3);
  const auto features = [&](const Vit& vit, const ParameterStore& store) {
    CropPacker packer(*start.context, config.patch_size);
    Tape tape(*start.context, Tape::Mode::inference);
    Weights weights = Weights::student(tape, store);
    return vit.cls_features(tape, weights, packer.pack({{start.context->from_host(pixels.array())}}));
  };
  const Tensor got = features(start.networks.vit(), start.networks.store());
  const Tensor expected = features(old.vit, old.store);
  check_close(got.const_array(), expected.const_array(), 1e-6, "cls");
}

TEST_CASE("weights of another network, or with another head, are refused and change nothing") {
  const Trained trained;
  const std::string backbone = trained.backbone();
  const auto refused = [&](const std::string& file, const std::function<void(TrainConfig&)>& change,
                           const std::string& part) {
    TrainConfig config = starting_from(file);
    change(config);
    Networks start(config);
    Networks untouched(config);
    CHECK(contains(error_of([&] { load_initial_weights(start.networks, config); }), part));
    const Tensor& now = start.networks.store().student;
    check_close(now.const_array(), untouched.networks.store().student.const_array(), 0.0, "weights");
  };
  refused(
      backbone, [](TrainConfig& c) { c.depth = 3; }, "is another network; got width 24, depth 2");
  refused(
      backbone, [](TrainConfig& c) { c.embed_dim = 48; }, "expected width 48");
  refused(
      backbone, [](TrainConfig& c) { c.patch_size = 4; }, "expected width 24, depth 2, heads 2, patch 4");
  // The file says how many heads it has, which no shape shows.
  refused(
      backbone, [](TrainConfig& c) { c.num_heads = 3; }, "heads 2");
  refused(
      trained.checkpoint(), [](TrainConfig& c) { c.out_dim = 32; },
      "head.last_layer.weight_v (got (48, 16), expected (32, 16))");
  refused(
      trained.checkpoint(), [](TrainConfig& c) { c.out_dim = 32; }, "--to official");
  refused(
      trained.path("absent.pth"), [](TrainConfig&) {}, "absent.pth");
}

TEST_CASE("advice is given where the configuration asks for trouble, and only there") {
  const Trained trained;
  TrainConfig config = starting_from(trained.backbone());
  config.freeze_last_layer = 0;
  config.lr = 5e-4;
  config.momentum_teacher = 0.99;
  Networks start(config);
  CHECK(load_initial_weights(start.networks, config).size() == 4);
  config.freeze_last_layer = 1;
  config.lr = 5e-5;
  config.momentum_teacher = 0.9995;
  CHECK(load_initial_weights(start.networks, config).size() == 1);
}

TEST_CASE("a run that starts from weights goes on without them") {
  const Trained trained;
  TrainConfig config = starting_from(trained.backbone());
  config.epochs = 1;
  config.output_dir = trained.path("tuned");
  const auto context = make_cpu_context();
  SingleProcess communicator;
  REQUIRE(train(*context, communicator, config, DrawnPictures(8), StartMode::fresh) == 0);
  std::filesystem::remove(config.init);
  config.epochs = 2;
  REQUIRE(train(*context, communicator, config, DrawnPictures(8), StartMode::resume) == 0);
  config.output_dir = trained.path("again");
  CHECK(contains(error_of([&] { train(*context, communicator, config, DrawnPictures(8), StartMode::fresh); }),
                 "cannot read"));
}

}  // namespace dino
