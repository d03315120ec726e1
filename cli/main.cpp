#include <fmt/format.h>

int main() {
  fmt::print("dino_cuda\n");
  return 0;
}
