// What the program does with NCCL: who makes the id, what is sent, and what is said when NCCL fails or hangs.
#include "engine/communicators/nccl.h"

#include "engine/communicators/threads.h"
#include "tests/nccl/fake_nccl.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"

#include <numeric>

namespace dino::test {
namespace {

/// Marks that the host sets at once.
class HostMarks final : public ProgressMarks {
 public:
  explicit HostMarks(const std::atomic<bool>& stuck) : stuck_(stuck) {}
  void put(int mark, Stream&) override {
    if (!stuck_) last_ = mark;
  }
  int last() const override { return last_; }

 private:
  const std::atomic<bool>& stuck_;
  std::atomic<int> last_ = -1;
};

struct Setup {
  double timeout_s = 60;
  double grace_s = 60;
  std::function<void(const std::string&)> give_up = [](const std::string&) {};
};

std::vector<std::string> on_ranks(int ranks, const Setup& setup, const std::function<void(Communicator&)>& body) {
  ThreadGroup group(ranks, 60);
  const NcclApi api = fake_nccl().api();
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        NcclCommunicator communicator(
            api, std::make_unique<ThreadCommunicator>(group, rank), std::make_unique<HostMarks>(fake_nccl().hangs),
            {.timeout_s = setup.timeout_s, .poll_s = 0.01, .grace_s = setup.grace_s, .give_up = setup.give_up});
        body(communicator);
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

TEST_CASE("NCCL's collectives are called with what they need") {
  for (const int ranks : {1, 2, 4}) {
    reset_fake_nccl();
    std::atomic<int> good = 0;
    for (const std::string& error : on_ranks(ranks, {}, [&](Communicator& communicator) {
           const auto stream = make_cpu_stream();
           const int rank = communicator.rank();
           bool right = communicator.recordable() && communicator.size() == ranks;
           for (const DType type : {DType::float32, DType::bfloat16}) {
             HostArray values(type, {37});
             for (std::int64_t i = 0; i < 37; ++i) values.set(i, static_cast<double>(i + rank));
             communicator.all_reduce_sum(values, *stream, "values");
             for (std::int64_t i = 0; i < 37; ++i)
               right &= values.at(i) == static_cast<double>(ranks * i + ranks * (ranks - 1) / 2);
           }
           const std::vector<float> mine{static_cast<float>(rank), 7};
           std::vector<float> all(static_cast<std::size_t>(2 * ranks), -1);
           communicator.all_gather(ConstArray(mine.data(), Shape{2}), Array(all.data(), Shape{2 * ranks}), *stream,
                                   "all");
           for (int r = 0; r < ranks; ++r)
             right &= all[static_cast<std::size_t>(2 * r)] == static_cast<float>(r) &&
                      all[static_cast<std::size_t>(2 * r + 1)] == 7;
           std::vector<float> sent{static_cast<float>(rank)};
           communicator.broadcast(Array(sent.data(), Shape{1}), ranks - 1, *stream, "sent");
           right &= sent[0] == static_cast<float>(ranks - 1);
           communicator.barrier("end");
           good += right;
         })) {
      REQUIRE(error == "");
    }
    CHECK(good == ranks);
    CHECK(fake_nccl().made == ranks);
    CHECK(fake_nccl().destroyed == ranks);
    CHECK(fake_nccl().aborted == 0);
  }
}

TEST_CASE("a call that NCCL refuses is named, with the collective, the step and NCCL's words") {
  reset_fake_nccl();
  const auto errors = on_ranks(1, {}, [](Communicator& communicator) {
    const auto stream = make_cpu_stream();
    std::vector<float> values(3);
    communicator.step_started(12);
    fake_nccl().refuses = true;
    communicator.all_reduce_sum(Array(values.data(), Shape{3}), *stream, "gradients 2 of 5");
  });
  CHECK(contains(errors[0],
                 "ncclAllReduce failed at \"gradients 2 of 5\" on rank 0, at step 12: invalid argument: "
                 "socket closed; try NCCL_DEBUG=INFO"));
  CHECK(fake_nccl().aborted == 1);  // to destroy it would wait for the others
  reset_fake_nccl();
  const auto wrong = on_ranks(1, {}, [](Communicator& communicator) {
    const auto stream = make_cpu_stream();
    std::vector<std::int32_t> values(3);
    communicator.all_reduce_sum(Array(values.data(), Shape{3}), *stream, "counts");
  });
  CHECK(contains(wrong[0], "float32 or bfloat16; got int32"));
}

TEST_CASE("an error that NCCL meets later reaches all ranks") {
  reset_fake_nccl();
  const auto errors = on_ranks(2, {}, [](Communicator& communicator) {
    const auto stream = make_cpu_stream();
    std::vector<float> values(3);
    communicator.step_started(4);
    communicator.all_reduce_sum(Array(values.data(), Shape{3}), *stream, "losses");
    communicator.barrier("both are there");
    fake_nccl().async_error_of_rank = 1;
    for (int i = 0; i < 1000; ++i) {  // until it is noticed
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      communicator.barrier("again");
    }
  });
  for (const std::string& error : errors)
    CHECK(contains(error, "NCCL failed on rank 1, at step 4: remote process exited or there was a network error"));
  CHECK(fake_nccl().aborted == 2);
}

TEST_CASE("a collective that hangs times out with its name, also within a replayed step") {
  reset_fake_nccl();
  std::mutex mutex;
  std::vector<std::string> given_up;
  Setup setup{.timeout_s = 0.5, .grace_s = 0.2, .give_up = [&](const std::string& message) {
                const std::lock_guard lock(mutex);
                given_up.push_back(message);
              }};
  const auto errors = on_ranks(1, setup, [&](Communicator& communicator) {
    const auto stream = make_cpu_stream();
    std::vector<float> values(3);
    const auto step = [&](std::int64_t number) {
      communicator.step_started(number);
      for (const char* name : {"gradients 1 of 2", "gradients 2 of 2", "losses"}) {
        if (number == 1 && std::string(name) == "losses") fake_nccl().hangs = true;
        communicator.all_reduce_sum(Array(values.data(), Shape{3}), *stream, name);
      }
    };
    step(0);
    communicator.step_finished(0);
    std::this_thread::sleep_for(std::chrono::milliseconds(800));  // no step is under way: nothing hangs
    step(1);
    for (int i = 0; i < 1000; ++i) {  // as the host waits for the device
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const std::lock_guard lock(mutex);
      if (!given_up.empty()) break;
    }
    communicator.step_finished(1);
  });
  REQUIRE(given_up.size() == 1);
  for (const std::string& message : {given_up[0], errors[0]}) {
    CHECK(contains(message,
                   "\"losses\" timed out after 0.5 s, at step 1: rank 0 waited, having finished "
                   "\"gradients 2 of 2\""));
  }
  CHECK(fake_nccl().aborted == 1);
  CHECK(fake_nccl().destroyed == 0);
}

TEST_CASE("a process that does not notice a failure ends, though recorded steps keep NCCL from being aborted") {
  reset_fake_nccl();
  fake_nccl().graphs = 1;
  std::atomic<int> given_up = 0;
  Setup setup{.timeout_s = 0.2, .grace_s = 0.2, .give_up = [&](const std::string&) {
                ++given_up;
                fake_nccl().graphs = 0;  // as the end of the process would
              }};
  const auto errors = on_ranks(1, setup, [&](Communicator& communicator) {
    const auto stream = make_cpu_stream();
    std::vector<float> values(3);
    communicator.step_started(0);
    fake_nccl().hangs = true;
    communicator.all_reduce_sum(Array(values.data(), Shape{3}), *stream, "losses");
    for (int i = 0; i < 1000 && given_up == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    communicator.step_finished(0);
  });
  CHECK(given_up == 1);
  CHECK(contains(errors[0], "\"losses\" timed out after 0.2 s"));
  CHECK(fake_nccl().aborted == 1);
}

TEST_CASE("NCCL itself is found, and has the functions that are used") {
  int version = 0;
  REQUIRE(nccl_library().version(&version) == ncclSuccess);
  CHECK(version >= 22000);
  CHECK(version / 10000 == NCCL_MAJOR);
}

}  // namespace
}  // namespace dino::test
