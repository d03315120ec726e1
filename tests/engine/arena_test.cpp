#include "engine/arena.h"

#include "engine/context.h"
#include "tests/support/catch.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

using namespace dino;

namespace {

/// An arena over a vector, of a size that tests can exhaust.
class SmallArena final : public Arena {
 public:
  explicit SmallArena(std::size_t capacity) : memory_(capacity + kAlignment) {
    auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    set_range(memory_.data() + (kAlignment - address % kAlignment) % kAlignment, capacity);
  }
  std::size_t committed() const { return committed_; }

 private:
  void commit(std::size_t end) override { committed_ = std::max(committed_, end); }
  std::vector<std::byte> memory_;
  std::size_t committed_ = 0;
};

}  // namespace

TEST_CASE("the lowest free block that is large enough is taken") {
  SmallArena arena(1 << 16);
  std::byte* a = arena.allocate(64);
  std::byte* b = arena.allocate(256);
  std::byte* c = arena.allocate(64);
  std::byte* d = arena.allocate(128);
  std::byte* e = arena.allocate(64);
  CHECK(b == a + 64);
  arena.free(b);
  arena.free(d);
  CHECK(arena.allocate(128) == b);
  CHECK(arena.allocate(192) == e + 64);
  CHECK(arena.allocate(128) == b + 128);
  CHECK(arena.allocate(1) == d);
  arena.free(c);
  CHECK(arena.allocate(64) == c);
}

TEST_CASE("neighbouring free blocks become one, in whichever order they are freed") {
  for (const auto& order : std::vector<std::vector<int>>{{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}}) {
    SmallArena arena(1 << 12);
    std::byte* blocks[3] = {arena.allocate(100), arena.allocate(100), arena.allocate(100)};
    arena.allocate(64);
    for (const int i : order) arena.free(blocks[i]);
    CHECK(arena.allocate(384) == blocks[0]);
  }
}

TEST_CASE("a free block at the end grows instead of being left behind") {
  SmallArena arena(1024);
  std::byte* a = arena.allocate(512);
  std::byte* b = arena.allocate(256);
  arena.free(b);
  CHECK(arena.allocate(512) == a + 512);
  CHECK(arena.committed() == 1024);
}

TEST_CASE("use and peak are counted in whole lines") {
  SmallArena arena(4096);
  CHECK(arena.used_bytes() == 0);
  std::byte* a = arena.allocate(1);
  std::byte* b = arena.allocate(65);
  std::byte* c = arena.allocate(0);
  CHECK(b != c);
  CHECK(arena.used_bytes() == 64 + 128 + 64);
  arena.free(a);
  arena.free(b);
  arena.free(c);
  CHECK(arena.used_bytes() == 0);
  CHECK(arena.peak_bytes() == 256);
}

TEST_CASE("short memory is an error that leaves the arena as it was") {
  SmallArena arena(1024);
  std::byte* a = arena.allocate(512);
  CHECK_THROWS_AS(arena.allocate(1024), Error);
  CHECK_THROWS_AS(arena.allocate(SIZE_MAX / 2), Error);
  CHECK(arena.used_bytes() == 512);
  CHECK(arena.allocate(512) == a + 512);
  CHECK_THROWS_AS(arena.allocate(1), Error);
  arena.free(a);
  CHECK(arena.allocate(64) == a);
}

TEST_CASE("random allocations never overlap, and the same sequence gives the same addresses") {
  std::vector<std::ptrdiff_t> first;
  SmallArena arena(1 << 22);
  std::byte* base = arena.allocate(64);
  for (int pass = 0; pass < 2; ++pass) {
    std::mt19937 random(7);
    struct Block {
      std::byte* data;
      std::size_t size;
      std::byte mark;
    };
    std::vector<Block> blocks;
    std::vector<std::ptrdiff_t> offsets;
    bool intact = true;
    for (int i = 0; i < 3000; ++i) {
      if (blocks.size() < 40 && random() % 2 == 0) {
        const std::size_t size = random() % 5000;
        Block block{arena.allocate(size), size, std::byte(i)};
        CHECK(reinterpret_cast<std::uintptr_t>(block.data) % Arena::kAlignment == 0);
        std::memset(block.data, static_cast<int>(block.mark), size);
        offsets.push_back(block.data - base);
        blocks.push_back(block);
      } else if (!blocks.empty()) {
        const std::size_t at = random() % blocks.size();
        const Block& block = blocks[at];
        intact =
            intact && std::all_of(block.data, block.data + block.size, [&](std::byte x) { return x == block.mark; });
        arena.free(block.data);
        blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
    CHECK(intact);
    for (const Block& block : blocks) arena.free(block.data);
    CHECK(arena.used_bytes() == 64);
    if (pass == 0) first = offsets;
    CHECK(offsets == first);
  }
}

TEST_CASE("tensors give their memory back, and keep the arena alive") {
  Tensor survivor;
  {
    const auto context = make_cpu_context();
    const std::size_t before = context->arena().used_bytes();
    {
      const Tensor a = context->zeros({3, 5}, DType::float32);
      const Tensor same = a.reshape({15});
      CHECK(context->arena().used_bytes() == before + 64);
      survivor = same.rows(5, 10);
    }
    CHECK(context->arena().used_bytes() == before + 64);
    CHECK_THROWS_AS(context->empty({INT64_MAX / 8}, DType::float32), Error);
  }
  for (int i = 0; i < 5; ++i) CHECK(survivor.as<float>()[i] == 0.0F);
}
