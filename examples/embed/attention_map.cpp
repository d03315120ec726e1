// What does a network look at? The mean of its last block's heads, a grey value for each patch.
//
//     ./attention_map last.safetensors photo.jpg map.pgm
#include <dino_cuda.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: attention_map WEIGHTS PICTURE MAP.pgm\n");
    return 2;
  }
  try {
    const dino_cuda::Model model(argv[1]);
    const dino_cuda::Picture photo(argv[2]);
    const dino_cuda::Attention attention = model.attention(photo.image());

    const std::vector<float> mean = attention.mean();
    const float most = *std::max_element(mean.begin(), mean.end());
    std::ofstream file(argv[3], std::ios::binary);
    file << "P5\n" << attention.columns << ' ' << attention.rows << "\n255\n";
    for (const float share : mean) file.put(static_cast<char>(static_cast<unsigned char>(255 * share / most + 0.5F)));
    if (!file.flush()) throw std::runtime_error(std::string("cannot write ") + argv[3]);
    std::printf("%d heads, %d×%d patches of %d pixels\n", attention.heads, attention.rows, attention.columns,
                model.info().patch_px);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
