#include "engine/folder_lock.h"

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <optional>

using namespace dino;
using namespace dino::test;
using State = FolderLock::State;

TEST_CASE("a folder has one lock at a time, which leaves nothing behind") {
  const TemporaryFolder folder;
  std::optional<FolderLock> first(folder.path());
  CHECK(first->state() == State::held);
  const FolderLock second(folder.path());
  CHECK(second.state() == State::taken);
  // This process, which has no other name in another container either.
  CHECK(contains(second.holder(), fmt::format("process {} (", getpid())));
  // By another way to the same folder, and not by a folder in it.
  std::filesystem::create_directory(folder.path() / "inside");
  CHECK(FolderLock(folder.path() / "inside/..").state() == State::taken);
  CHECK(FolderLock(folder.path() / "inside").state() == State::held);
  std::filesystem::remove(folder.path() / "inside");
  first.reset();
  CHECK(std::filesystem::is_empty(folder.path()));
  CHECK(FolderLock(folder.path()).state() == State::held);
}

TEST_CASE("a lock ends with its process, also where that is killed") {
  const TemporaryFolder folder;
  int ready[2];
  REQUIRE(pipe(ready) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const FolderLock lock(folder.path());
    (void)!write(ready[1], lock.state() == State::held ? "y" : "n", 1);
    for (;;) pause();
  }
  REQUIRE(child > 0);
  char held = 0;
  REQUIRE(read(ready[0], &held, 1) == 1);
  CHECK(held == 'y');
  const FolderLock refused(folder.path());
  CHECK(refused.state() == State::taken);
  CHECK(contains(refused.holder(), fmt::format("process {} (", child)));
  kill(child, SIGKILL);
  CHECK(waitpid(child, nullptr, 0) == child);
  CHECK(FolderLock(folder.path()).state() == State::held);
  CHECK(refused.holder() == "another process");  // that has ended
  close(ready[0]);
  close(ready[1]);
}

TEST_CASE("where there is no folder there is no lock, and the reason") {
  const TemporaryFolder folder;
  const FolderLock lock(folder.path() / "missing");
  CHECK(lock.state() == State::unavailable);
  CHECK(contains(lock.trouble(), "No such file"));
  CHECK(lock.holder() == "another process");
  lock.sync();
}
