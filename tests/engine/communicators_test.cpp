// Every communicator of the CPU against sums in the order of the ranks, and what each rank says when one is missing,
// different or dead.
#include "engine/communicators/tcp.h"
#include "engine/communicators/threads.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <numeric>
#include <thread>

namespace dino {
namespace {

using test::contains;
using test::HostArray;

enum class Kind { threads, tcp };
using Body = std::function<void(Communicator&)>;

constexpr const char* kKey = "a run of this test";

TcpOptions tcp_options(int rank, int size, int port, double timeout_s) {
  TcpOptions options;
  options.rank = rank;
  options.size = size;
  options.port = port;
  options.key = kKey;
  options.timeout_s = timeout_s;
  return options;
}

/// Runs `body` on a thread for each rank and returns what each one threw.
std::vector<std::string> on_ranks(Kind kind, int ranks, const Body& body, double timeout_s = 60) {
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  ThreadGroup group(ranks, timeout_s);
  Socket listener = listen_on(0, true);
  const int port = port_of(listener);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        if (kind == Kind::threads) {
          ThreadCommunicator communicator(group, rank);
          body(communicator);
          return;
        }
        TcpOptions options = tcp_options(rank, ranks, port, timeout_s);
        if (rank == 0) options.listener = std::move(listener);
        TcpCommunicator communicator(std::move(options));
        body(communicator);
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

void require_no_errors(const std::vector<std::string>& errors) {
  for (const std::string& error : errors) REQUIRE(error == "");
}

HostArray values_of(int rank, DType dtype, std::int64_t count) {
  return test::random_normal(dtype, {count}, static_cast<std::uint64_t>(100 + rank));
}

void check_sums(Kind kind, int ranks, DType dtype, std::int64_t count) {
  INFO(ranks << " ranks, " << count << " of " << name_of(dtype));
  // The oracle: sums in double. One in fp32 has an error of at most (ranks - 1) · 2^-24 of the sum of magnitudes, and
  // its result is rounded once to the type.
  std::vector<HostArray> inputs, got;
  for (int rank = 0; rank < ranks; ++rank) {
    inputs.push_back(values_of(rank, dtype, count));
    got.push_back(inputs.back().copy());
  }
  require_no_errors(on_ranks(kind, ranks, [&](Communicator& communicator) {
    const auto stream = make_cpu_stream();
    communicator.all_reduce_sum(got[static_cast<std::size_t>(communicator.rank())], *stream, "values");
  }));
  std::int64_t wrong = 0, different = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    double sum = 0, magnitude = 0;
    for (const HostArray& input : inputs) {
      sum += input.at(i);
      magnitude += std::abs(input.at(i));
    }
    const double rounding = dtype == DType::bfloat16 ? 0x1p-8 * std::abs(sum) : 0;
    const double bound = 1.01 * (ranks * 0x1p-24 * magnitude + rounding);
    wrong += !(std::abs(got[0].at(i) - sum) <= bound);
    for (const HostArray& other : got) different += !(other.at(i) == got[0].at(i));
  }
  CHECK(wrong == 0);
  CHECK(different == 0);
}

TEST_CASE("sums over ranks are right and the same on every rank") {
  for (const Kind kind : {Kind::threads, Kind::tcp}) {
    for (const int ranks : {1, 2, 3, 4}) {
      for (const std::int64_t count : {1, 5, 1023, 1025, 100003}) {
        check_sums(kind, ranks, DType::float32, count);
        check_sums(kind, ranks, DType::bfloat16, count);
      }
    }
  }
}

TEST_CASE("sums over ranks are made in the order of the ranks") {
  // (1 + 2^30) - 2^30 is 0 in fp32, in any other order of these three it is 1.
  for (const Kind kind : {Kind::threads, Kind::tcp}) {
    for (const std::int64_t count : {3, 5000}) {
      std::vector<double> sums(3);
      require_no_errors(on_ranks(kind, 3, [&](Communicator& communicator) {
        const double mine[] = {1, 0x1p30, -0x1p30};
        std::vector<float> values(static_cast<std::size_t>(count), static_cast<float>(mine[communicator.rank()]));
        const auto stream = make_cpu_stream();
        communicator.all_reduce_sum(Array(values.data(), Shape{count}), *stream, "values");
        sums[static_cast<std::size_t>(communicator.rank())] = std::accumulate(values.begin(), values.end(), 0.0);
      }));
      CHECK(sums == std::vector<double>{0, 0, 0});
    }
  }
}

TEST_CASE("gathers and broadcasts bring every rank's values to all") {
  for (const Kind kind : {Kind::threads, Kind::tcp}) {
    for (const int ranks : {1, 2, 3, 4}) {
      std::atomic<int> good = 0;
      require_no_errors(on_ranks(kind, ranks, [&](Communicator& communicator) {
        const auto stream = make_cpu_stream();
        const int rank = communicator.rank();
        bool right = communicator.size() == ranks;
        for (const std::size_t count : {std::size_t{1}, std::size_t{3}, std::size_t{20011}}) {
          const auto value = [&](int of, std::size_t i) {
            return static_cast<std::int32_t>(1000003 * (of + 1) + static_cast<int>(i));
          };
          std::vector<std::int32_t> mine(count), all(count * static_cast<std::size_t>(ranks), -1);
          for (std::size_t i = 0; i < count; ++i) mine[i] = value(rank, i);
          const Shape shape{static_cast<std::int64_t>(count)};
          communicator.all_gather(ConstArray(mine.data(), shape),
                                  Array(all.data(), Shape{ranks * static_cast<std::int64_t>(count)}), *stream, "all");
          for (std::size_t i = 0; i < all.size(); ++i) right &= all[i] == value(static_cast<int>(i / count), i % count);
          std::fill(all.begin(), all.end(), -1);
          communicator.all_gather_host(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)), "host");
          for (std::size_t i = 0; i < all.size(); ++i) right &= all[i] == value(static_cast<int>(i / count), i % count);
          for (int root = 0; root < ranks; ++root) {
            std::vector<std::int32_t> sent = mine;
            communicator.broadcast(Array(sent.data(), shape), root, *stream, "sent");
            for (std::size_t i = 0; i < count; ++i) right &= sent[i] == value(root, i);
          }
        }
        communicator.barrier("end");
        good += right;
      }));
      CHECK(good == ranks);
    }
  }
}

TEST_CASE("a barrier lets nobody through before all have come") {
  for (const Kind kind : {Kind::threads, Kind::tcp}) {
    std::atomic<int> came = 0;
    std::atomic<bool> early = false;
    require_no_errors(on_ranks(kind, 4, [&](Communicator& communicator) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20 * communicator.rank()));
      ++came;
      communicator.barrier("all here");
      if (came != 4) early = true;
    }));
    CHECK_FALSE(early);
  }
}

TEST_CASE("ranks that do different things are told so") {
  for (const Kind kind : {Kind::threads, Kind::tcp}) {
    for (const bool name_differs : {true, false}) {
      const auto errors = on_ranks(kind, 3, [&](Communicator& communicator) {
        const auto stream = make_cpu_stream();
        const bool odd = communicator.rank() == 1;
        std::vector<float> values(odd && !name_differs ? 11 : 10);
        communicator.step_started(17);
        communicator.all_reduce_sum(Array(values.data(), Shape{static_cast<std::int64_t>(values.size())}), *stream,
                                    odd && name_differs ? "losses" : "gradients 3 of 12");
      });
      for (const std::string& error : errors) {
        CHECK(error.starts_with("[communicator] "));
        CHECK(contains(error, "gradients 3 of 12"));
        CHECK(contains(error, "at step 17"));
        if (name_differs) CHECK(contains(error, "losses"));
      }
    }
  }
}

TEST_CASE("a collective that a rank does not come to times out and says which and who") {
  for (const Kind kind : {Kind::threads, Kind::tcp}) {
    std::atomic<bool> over = false;
    const auto errors = on_ranks(
        kind, 3,
        [&](Communicator& communicator) {
          communicator.step_started(5);
          communicator.barrier("start");
          if (communicator.rank() == 1) {
            while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(10));
            return;
          }
          const std::string error = test::error_of([&] { communicator.barrier("gradients 2 of 7"); });
          over = true;
          // And it stays so.
          const std::string again = test::error_of([&] { communicator.barrier("gradients 3 of 7"); });
          throw std::runtime_error(again.empty() ? "went on" : error);
        },
        1.0);
    CHECK(errors[1] == "");
    for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
      CHECK(contains(errors[rank], "\"gradients 2 of 7\" timed out after 1 s"));
      CHECK(contains(errors[rank], "at step 5"));
      CHECK(contains(errors[rank], "rank 1 did not arrive"));
    }
  }
}

TEST_CASE("a rank that fails ends the others with its reason") {
  for (const Kind kind : {Kind::threads, Kind::tcp}) {
    for (const bool says_why : {true, false}) {
      const auto errors = on_ranks(kind, 4, [&](Communicator& communicator) {
        communicator.barrier("start");
        if (communicator.rank() == 2) {
          if (says_why) communicator.abort("the disk is full");
          throw std::runtime_error("mine");
        }
        communicator.barrier("losses");
      });
      CHECK(errors[2] == "mine");
      for (const std::size_t rank : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
        CHECK(contains(errors[rank], "rank 2"));
        CHECK(contains(errors[rank], says_why ? "failed: the disk is full" : "failed: it ended by an error"));
      }
    }
  }
}

TEST_CASE("a rank that finishes early is told from one that fails") {
  const auto errors = on_ranks(Kind::tcp, 3, [](Communicator& communicator) {
    communicator.barrier("start");
    if (communicator.rank() != 1) communicator.barrier("losses");
  });
  CHECK(errors[1] == "");
  CHECK((contains(errors[0], "has finished") || contains(errors[0], "rank 2")));
  CHECK(!errors[2].empty());
}

/// A process that is a rank and ends as `end` says once all ranks have met. Made before this process has threads.
pid_t fork_rank(int rank, int size, int port, const std::function<void()>& end) {
  const pid_t child = fork();
  if (child != 0) return child;
  try {
    TcpCommunicator communicator(tcp_options(rank, size, port, 60));
    communicator.barrier("start");
    end();
    communicator.barrier("never");
  } catch (...) {
  }
  _exit(0);
}

TEST_CASE("a process that is killed ends the others at once with its name") {
  Socket listener = listen_on(0, true);
  const int port = port_of(listener);
  const pid_t victim = fork_rank(1, 3, port, [] { raise(SIGKILL); });
  REQUIRE(victim > 0);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::string> errors(3);
  std::vector<std::thread> threads;
  for (const int rank : {0, 2}) {
    threads.emplace_back([&, rank] {
      TcpOptions options = tcp_options(rank, 3, port, 60);
      if (rank == 0) options.listener = std::move(listener);
      errors[static_cast<std::size_t>(rank)] = test::error_of([&] {
        TcpCommunicator communicator(std::move(options));
        communicator.step_started(3);
        communicator.barrier("start");
        communicator.barrier("losses");
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  waitpid(victim, nullptr, 0);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(seconds < 30);
  for (const int rank : {0, 2}) {
    const std::string& error = errors[static_cast<std::size_t>(rank)];
    CHECK(contains(error, "rank 1 (process " + std::to_string(victim)));
    CHECK(contains(error, "; try "));
  }
}

TEST_CASE("a rank that computes for long gives up when another is gone") {
  Socket listener = listen_on(0, true);
  const int port = port_of(listener);
  const pid_t victim = fork_rank(1, 2, port, [] { raise(SIGKILL); });
  REQUIRE(victim > 0);
  std::mutex mutex;
  std::string message;
  TcpOptions options = tcp_options(0, 2, port, 60);
  options.listener = std::move(listener);
  options.grace_s = 0.3;
  options.give_up = [&](const std::string& text) {
    const std::lock_guard lock(mutex);
    message = text;
  };
  TcpCommunicator communicator(std::move(options));
  communicator.barrier("start");
  for (int i = 0; i < 500; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::lock_guard lock(mutex);
    if (!message.empty()) break;
  }
  waitpid(victim, nullptr, 0);
  const std::lock_guard lock(mutex);
  CHECK(contains(message, "rank 1 (process " + std::to_string(victim)));
}

TEST_CASE("connections of others neither hold up nor end a run") {
  Socket listener = listen_on(0, true);
  const int port = port_of(listener);
  const auto soon = [] { return std::chrono::steady_clock::now() + std::chrono::seconds(10); };
  const auto say = [&](std::string_view text) {
    Socket socket = connect_to("127.0.0.1", port, "the test", soon());
    send_all(socket, std::as_bytes(std::span(text)), soon());
    return socket;
  };
  // Before the ranks come: one that says nothing, one that speaks HTTP, one that hangs up, one with 1 MB of zeros.
  std::vector<Socket> open;
  open.push_back(say(""));
  open.push_back(say("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  say("x");
  open.push_back(connect_to("127.0.0.1", port, "the test", soon()));
  const std::vector<std::byte> zeros(4096);
  send_all(open.back(), zeros, soon());
  std::string other_run;
  std::thread stranger([&] {  // a rank of another run
    TcpOptions options = tcp_options(1, 2, port, 5);
    options.key = "another run";
    other_run = test::error_of([&] { TcpCommunicator communicator(std::move(options)); });
  });
  stranger.join();  // rank 0 has not come yet: it waits for that one as well
  std::vector<std::string> errors(2);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      TcpOptions options = tcp_options(rank, 2, port, 60);
      if (rank == 0) options.listener = std::move(listener);
      errors[static_cast<std::size_t>(rank)] = test::error_of([&] {
        TcpCommunicator communicator(std::move(options));
        communicator.barrier("all here");
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(errors == std::vector<std::string>{"", ""});
  CHECK(contains(other_run, "rank 0 at 127.0.0.1"));
}

/// Two processes with these ranks and sizes find, or do not find, each other.
std::vector<std::string> meet(int rank, int size, int other_rank, int other_size, double timeout_s) {
  Socket listener = listen_on(0, true);
  const int port = port_of(listener);
  std::vector<std::string> errors(2);
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      TcpOptions options = tcp_options(i == 0 ? rank : other_rank, i == 0 ? size : other_size, port, timeout_s);
      if (i == 0) options.listener = std::move(listener);
      errors[static_cast<std::size_t>(i)] = test::error_of([&] { TcpCommunicator communicator(std::move(options)); });
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

TEST_CASE("processes that do not belong together are told why") {
  const auto sizes = meet(0, 2, 1, 3, 20);
  for (const std::string& error : sizes) {
    CHECK(contains(error, "rank 1 (process "));
    CHECK(contains(error, "was started as one of 3 ranks, rank 0 as one of 2"));
  }
  const auto twice = meet(0, 2, 0 + 5, 2 + 4, 20);
  CHECK(contains(twice[0], "was started as one of 6 ranks, rank 0 as one of 2"));
  const auto missing = meet(0, 3, 1, 3, 1.5);
  CHECK(contains(missing[0], "rank 2 of 3 did not come to port "));
  CHECK(contains(missing[1], "rank 2 of 3 did not come to port "));

  TcpOptions nowhere = tcp_options(1, 2, 1, 1);  // nobody listens on port 1
  const std::string unreached = test::error_of([&] { TcpCommunicator communicator(std::move(nowhere)); });
  CHECK(contains(unreached, "cannot reach rank 0 at 127.0.0.1:1 within 1 s"));
  TcpOptions unknown = tcp_options(1, 2, 4000, 20);
  unknown.address = "no-such-host.invalid";
  const std::string unresolved = test::error_of([&] { TcpCommunicator communicator(std::move(unknown)); });
  // Without a name server it is not known that there is no such host.
  CHECK((contains(unresolved, "there is no host \"no-such-host.invalid\"") ||
         contains(unresolved, "cannot reach rank 0 at no-such-host.invalid")));
}

}  // namespace
}  // namespace dino
