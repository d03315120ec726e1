#include "train/config_table.h"

namespace dino {
namespace {

using C = TrainConfig;

constexpr ConfigRange at_least(double low) { return {.low = low}; }
constexpr ConfigRange above(double low) { return {.low = low, .above_low = true}; }
constexpr ConfigRange between(double low, double high) { return {.low = low, .high = high}; }
constexpr ConfigRange above_up_to(double low, double high) { return {.low = low, .high = high, .above_low = true}; }
constexpr ConfigRange one_of(std::string_view choices) { return {.choices = choices}; }
constexpr ConfigRange any() { return {}; }

// clang-format off
constexpr std::string_view kModel = "Model";
constexpr std::string_view kLoss = "Teacher and loss";
constexpr std::string_view kOptimisation = "Optimisation";
constexpr std::string_view kCrops = "Crops";
constexpr std::string_view kAugmentation = "Augmentation";
constexpr std::string_view kRun = "Data, output and machine";
constexpr std::string_view kHealth = "Health";
constexpr std::string_view kRanks = "Several GPUs and machines";
constexpr std::string_view kKnn = "k-NN while training";
constexpr std::string_view kReports = "Reports";

const ConfigField kTable[] = {
  {kModel, "arch", &C::arch, one_of("vit_tiny|vit_small|vit_base"), "backbone: width 192, 384 or 768, 12 blocks, 3, 6 or 12 heads"},
  {kModel, "patch_size", &C::patch_size, between(1, 128), "side of a patch in pixels; smaller is better and slower"},
  {kModel, "embed_dim", &C::embed_dim, at_least(0), "width of the backbone; 0 = the architecture's"},
  {kModel, "depth", &C::depth, at_least(0), "number of blocks; 0 = the architecture's"},
  {kModel, "num_heads", &C::num_heads, at_least(0), "attention heads; 0 = the architecture's"},
  {kModel, "drop_path_rate", &C::drop_path_rate, between(0, 0.999), "stochastic depth of the student: rate of the last block, linear from 0"},
  {kModel, "out_dim", &C::out_dim, between(2, 1 << 24), "prototypes: width of the head's output"},
  {kModel, "norm_last_layer", &C::norm_last_layer, any(), "fix the norm of the last layer's rows to 1: steadier; false may do better for small models"},
  {kModel, "use_bn_in_head", &C::use_bn_in_head, any(), "batch norm in the head"},
  {kModel, "head_layers", &C::head_layers, between(1, 8), "linear layers of the head, up to the bottleneck"},
  {kModel, "head_hidden_dim", &C::head_hidden_dim, at_least(1), "width of the head's hidden layers"},
  {kModel, "head_bottleneck_dim", &C::head_bottleneck_dim, at_least(1), "width of the head's bottleneck"},
  {kModel, "init", &C::init, any(), "trained weights to start from, a file or a folder of Hugging Face's; empty = random weights"},

  {kLoss, "momentum_teacher", &C::momentum_teacher, between(0, 1), "EMA of the teacher: first value; rises to 1 by a cosine. Higher (0.9995) for small batches"},
  {kLoss, "warmup_teacher_temp", &C::warmup_teacher_temp, above(0), "teacher temperature at the start; lower it if the loss does not fall"},
  {kLoss, "teacher_temp", &C::teacher_temp, above(0), "teacher temperature after the warm-up; above 0.07 is unstable"},
  {kLoss, "warmup_teacher_temp_epochs", &C::warmup_teacher_temp_epochs, at_least(0), "epochs from the first teacher temperature to the final one"},
  {kLoss, "student_temp", &C::student_temp, above(0), "student temperature"},
  {kLoss, "center_momentum", &C::center_momentum, between(0, 1), "EMA of the center of the teacher's outputs"},

  {kOptimisation, "optimizer", &C::optimizer, one_of("adamw|sgd|lars"), "adamw for transformers; sgd; lars for large batches"},
  {kOptimisation, "epochs", &C::epochs, at_least(1), "passes over the data"},
  {kOptimisation, "batch_size_per_gpu", &C::batch_size_per_gpu, at_least(1), "images per device and micro-batch"},
  {kOptimisation, "accumulation", &C::accumulation, at_least(1), "micro-batches per optimiser step: larger batches in the same memory"},
  {kOptimisation, "lr", &C::lr, at_least(0), "learning rate after the warm-up, for a batch of 256; scaled by (global batch) / 256"},
  {kOptimisation, "warmup_epochs", &C::warmup_epochs, at_least(0), "epochs of linear warm-up of the learning rate"},
  {kOptimisation, "min_lr", &C::min_lr, at_least(0), "learning rate that the cosine ends at; not scaled"},
  {kOptimisation, "weight_decay", &C::weight_decay, at_least(0), "weight decay at the start"},
  {kOptimisation, "weight_decay_end", &C::weight_decay_end, at_least(0), "weight decay at the end, by a cosine"},
  {kOptimisation, "clip_grad", &C::clip_grad, at_least(0), "largest gradient norm of each parameter tensor; 0 = no clipping"},
  {kOptimisation, "freeze_last_layer", &C::freeze_last_layer, at_least(0), "epochs during which the head's last layer is not trained"},
  {kOptimisation, "precision", &C::precision, one_of("auto|fp32|bf16"), "of GEMMs and activations; auto = bf16 where the device is made for it"},

  {kCrops, "global_crops_size", &C::global_crops_size, at_least(1), "side of the 2 global crops in pixels; a multiple of patch_size"},
  {kCrops, "global_crops_scale", &C::global_crops_scale, above_up_to(0, 1), "smallest and largest share of the image's area in a global crop"},
  {kCrops, "local_crops_number", &C::local_crops_number, between(0, 64), "local crops per image; 0 = global crops only, then try global_crops_scale = [0.14, 1.0]"},
  {kCrops, "local_crops_size", &C::local_crops_size, at_least(1), "side of the local crops in pixels; a multiple of patch_size"},
  {kCrops, "local_crops_scale", &C::local_crops_scale, above_up_to(0, 1), "smallest and largest share of the image's area in a local crop"},

  {kAugmentation, "flip_prob", &C::flip_prob, between(0, 1), "probability of a horizontal flip"},
  {kAugmentation, "jitter_prob", &C::jitter_prob, between(0, 1), "probability of colour jitter"},
  {kAugmentation, "jitter_brightness", &C::jitter_brightness, between(0, 1), "brightness factor in 1 ± this"},
  {kAugmentation, "jitter_contrast", &C::jitter_contrast, between(0, 1), "contrast factor in 1 ± this"},
  {kAugmentation, "jitter_saturation", &C::jitter_saturation, between(0, 1), "saturation factor in 1 ± this"},
  {kAugmentation, "jitter_hue", &C::jitter_hue, between(0, 0.5), "hue shift within ± this part of the circle"},
  {kAugmentation, "gray_prob", &C::gray_prob, between(0, 1), "probability of a grey crop"},
  {kAugmentation, "blur_radius", &C::blur_radius, at_least(0), "smallest and largest radius of the Gaussian blur in pixels"},
  {kAugmentation, "blur_prob_global1", &C::blur_prob_global1, between(0, 1), "probability of blur, first global crop"},
  {kAugmentation, "blur_prob_global2", &C::blur_prob_global2, between(0, 1), "probability of blur, second global crop"},
  {kAugmentation, "blur_prob_local", &C::blur_prob_local, between(0, 1), "probability of blur, local crops"},
  {kAugmentation, "solarize_prob_global2", &C::solarize_prob_global2, between(0, 1), "probability of solarisation, second global crop"},

  {kRun, "data_path", &C::data_path, any(), "training images: a folder, with or without class folders or splits, or a text file that lists them"},
  {kRun, "output_dir", &C::output_dir, any(), "checkpoints, log.jsonl and the effective configuration go here"},
  {kRun, "saveckp_freq", &C::saveckp_freq, at_least(0), "keep the checkpoint of every n-th epoch; 0 = only the last two and the best"},
  {kRun, "save_minutes", &C::save_minutes, at_least(0), "write last.safetensors after so many minutes within an epoch as well; 0 = only after epochs"},
  {kRun, "seed", &C::seed, at_least(0), "of weights, order, crops and drop path"},
  {kRun, "num_workers", &C::num_workers, between(0, 1024), "threads that decode and augment; 0 = one per core"},
  {kRun, "augment", &C::augment, one_of("auto|host|device"), "where crops are made, the same ones: by these threads (host), or where the networks are (device); auto = device on a GPU"},
  {kRun, "max_broken_share", &C::max_broken_share, between(0, 1), "broken images are replaced by others and listed in broken_images.jsonl; the run stops when more than this share of all are"},
  {kRun, "threads", &C::threads, between(0, 4096), "threads that compute on the CPU; 0 = OMP_NUM_THREADS, else one per core"},
  {kRun, "device", &C::device, any(), "cpu, cuda, cuda:N, or auto = the first GPU where there are a driver and a card, else cpu"},

  {kHealth, "max_skipped_steps", &C::max_skipped_steps, between(0, 100), "steps of any 100 that may be skipped because a loss or gradient is not finite; one more ends the run, or takes it back (rollbacks)"},
  {kHealth, "rollbacks", &C::rollbacks, between(0, 1000), "how often a run that collapses or skips too much goes back to its last healthy epoch, each time with half the lr; 0 = never"},
  {kHealth, "health_images", &C::health_images, at_least(0), "pictures whose features are watched after each epoch while knn_every = 0; 0 = none"},

  {kRanks, "communicator", &C::communicator, one_of("auto|nccl|mpi|tcp"), "how ranks exchange data; auto = nccl on GPUs, mpi under mpirun, else tcp"},
  {kRanks, "gradient_sums", &C::gradient_sums, one_of("fp32|bf16"), "of gradients on their way between ranks; bf16 = half the bytes, rounded"},
  {kRanks, "bucket_mb", &C::bucket_mb, between(1, 1024), "gradients are summed in pieces of so many MiB while backward runs"},
  {kRanks, "checksum_every", &C::checksum_every, at_least(0), "compare the weights of all ranks every n steps; 0 = at the start only"},
  {kRanks, "collective_timeout_s", &C::collective_timeout_s, between(1, 1000000), "seconds that ranks wait for each other before the run ends with an error"},
  {kRanks, "rank_logs", &C::rank_logs, any(), "every rank writes its own log.rankN.jsonl as well"},

  {kKnn, "knn_every", &C::knn_every, at_least(0), "classify by nearest neighbours before the first epoch, after every n-th and after the last; 0 = never"},
  {kKnn, "knn_train_path", &C::knn_train_path, any(), "labelled images to compare with; empty = those of data_path"},
  {kKnn, "knn_test_path", &C::knn_test_path, any(), "labelled images to classify; empty = the val or test split in data_path, or a tenth held out where there is none"},
  {kKnn, "knn_images", &C::knn_images, at_least(0), "take at most so many of each, evenly chosen, so that an evaluation does not outlast an epoch; 0 = all"},
  {kKnn, "knn_k", &C::knn_k, at_least(1), "numbers of neighbours"},
  {kKnn, "knn_temperature", &C::knn_temperature, above(0), "votes are weighted by exp(similarity / this)"},

  {kReports, "report_every", &C::report_every, at_least(0), "draw the film of a few pictures and write report.html before the first epoch, after every n-th and after the last; 0 = never"},
  {kReports, "tensorboard", &C::tensorboard, any(), "also log for TensorBoard, into tensorboard/ in output_dir"},
};
// clang-format on

}  // namespace

std::span<const ConfigField> config_table() { return kTable; }

}  // namespace dino
