// Writes the seeds of every target, small sound files and some that are nearly so, into FOLDER/TARGET, and the words
// that mutations are made of into FOLDER/TARGET.dict.
#include "data/png.h"
#include "evaluate/feature_file.h"
#include "kernels/common/error.h"
#include "models/hugging_face.h"
#include "models/safetensors.h"
#include "models/torch_writer.h"
#include "tests/fuzz/zip.h"
#include "tests/support/pictures.h"
#include "train/config.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>

#include <archive.h>
#include <archive_entry.h>
#include <zlib.h>

using namespace dino;
using namespace dino::test;
namespace fs = std::filesystem;

namespace {

fs::path root;

void seed(const std::string& target, const std::string& name, std::string_view bytes) {
  fs::create_directories(root / target);
  std::ofstream file(root / target / name, std::ios::binary);
  file << bytes;
  require(file.good(), "seeds", "cannot write {}", (root / target / name).string());
}
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void dictionary(const std::string& target, const std::vector<std::string>& words) {
  std::ofstream file(root / (target + ".dict"), std::ios::binary);
  for (const std::string& word : words) {
    file << '"';
    for (const char c : word) file << fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    file << "\"\n";
  }
}

void config_seeds() {
  seed("config", "default", write_config({}));
  seed("config", "short", "arch = 'vit_tiny' # x\nlr = 1e-3\nknn_k = [1, 2]\nblur_radius = [0.1, 2]\n");
  seed("config", "text", "data_path = \"\\u00e4 \\\"b\\\\\"\noutput_dir = '''\nline'''\nseed = 0x1_0\nepochs = +5\n");
  seed("config", "table", "[model]\narch = 'vit_small'\n");
  std::vector<std::string> words{"true", "false", "nan",    "inf", " = ",
                                 "[",    "]",     "\"\"\"", "'''", "1979-05-27T07:32:00Z"};
  for (const ConfigKey& key : config_keys()) words.emplace_back(key.name);
  dictionary("config", words);
}

/// The tensors of a vision transformer of width 2 with one block, as far as its shape is read off them.
std::vector<NamedArray> tiny_network(const std::string& prefix, const float* data) {
  return {{prefix + "cls_token", ConstArray(data, Shape{1, 1, 2})},
          {prefix + "pos_embed", ConstArray(data, Shape{1, 5, 2})},
          {prefix + "patch_embed.proj.weight", ConstArray(data, Shape{2, 3, 1, 1})},
          {prefix + "blocks.0.norm1.weight", ConstArray(data, Shape{2})},
          {prefix + "blocks.0.mlp.fc1.weight", ConstArray(data, Shape{4, 2})},
          {prefix + "blocks.0.attn.qkv.bias", ConstArray(data, Shape{6})}};
}

void weights_seeds() {
  const std::vector<float> numbers(64, 1.5F);
  const std::vector<std::int64_t> counts(4, 7);
  const std::vector<std::uint8_t> bytes(8, 9);
  const fs::path file = root / "temporary";
  const auto add = [&](const std::string& name, const std::vector<NamedArray>& arrays,
                       const std::map<std::string, std::string>& metadata, const std::vector<std::string>& targets) {
    write_safetensors(file, arrays, metadata);
    for (const std::string& target : targets) seed(target, name, content(file));
  };
  add("types",
      {{"a", ConstArray(numbers.data(), Shape{4, 8})},
       {"b.c", ConstArray(counts.data(), Shape{4})},
       {"d", ConstArray(bytes.data(), Shape{2, 2, 2})},
       {"empty", ConstArray(numbers.data(), Shape{0, 3})},
       {"scalar", ConstArray(numbers.data(), Shape{})}},
      {{"format", "pt"}}, {"safetensors", "torch_file"});
  std::vector<NamedArray> both = tiny_network("teacher.backbone.", numbers.data());
  for (const NamedArray& array : tiny_network("student.module.backbone.", numbers.data())) both.push_back(array);
  add("checkpoint", both, {{"config", "arch = 'vit_tiny'\n"}, {"num_heads", "1"}, {"epoch", "3"}},
      {"weights", "safetensors"});
  add("backbone", tiny_network("", numbers.data()), {{"num_heads", "2"}}, {"weights"});
  const std::string hf = "vit.embeddings.";
  const std::string layer = "vit.encoder.layer.0.";
  add("hugging_face",
      {{hf + "cls_token", ConstArray(numbers.data(), Shape{1, 1, 2})},
       {hf + "position_embeddings", ConstArray(numbers.data(), Shape{1, 5, 2})},
       {hf + "patch_embeddings.projection.weight", ConstArray(numbers.data(), Shape{2, 3, 1, 1})},
       {layer + "layernorm_before.weight", ConstArray(numbers.data(), Shape{2})},
       {layer + "intermediate.dense.weight", ConstArray(numbers.data(), Shape{4, 2})},
       {layer + "attention.attention.query.weight", ConstArray(numbers.data(), Shape{2, 2})},
       {layer + "attention.attention.key.weight", ConstArray(numbers.data(), Shape{2, 2})},
       {layer + "attention.attention.value.weight", ConstArray(numbers.data(), Shape{2, 2})}},
      {{"num_heads", "1"}}, {"weights"});
  write_torch(file, tiny_network("backbone.", numbers.data()));
  seed("torch_file", "zip", content(file));
  seed("weights", "zip", content(file));
  seed("torch_file", "index", R"({"metadata": {}, "weight_map": {"a": "model.safetensors"}})");
  fs::remove(file);

  VitConfig config{.embed_dim = 4, .depth = 1, .heads = 1, .patch_px = 2, .image_px = 4};
  seed("model_config", "ours", hugging_face_config(config, "float32"));
  seed("model_config", "nested", std::string(60000, '['));
  const std::uint64_t nested_bytes = 60000;
  seed("safetensors", "nested",
       std::string(reinterpret_cast<const char*>(&nested_bytes), 8) + std::string(nested_bytes, '['));
  seed("model_config", "another", R"({"model_type": "bert", "hidden_act": "relu"})");
  seed("model_config", "short", R"({"hidden_size": 384, "layer_norm_eps": 1e-12, "image_size": [224, 224]})");
  const std::vector<std::string> words{"F32",
                                       "F64",
                                       "BF16",
                                       "F16",
                                       "U8",
                                       "I32",
                                       "I64",
                                       "\"dtype\":",
                                       "\"shape\":[",
                                       "\"data_offsets\":[",
                                       "__metadata__",
                                       "num_heads",
                                       "config",
                                       "teacher.",
                                       "student.",
                                       "18446744073709551615",
                                       "9223372036854775807"};
  for (const char* target : {"safetensors", "torch_file", "weights"}) dictionary(target, words);
  dictionary("model_config", {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                              "patch_size", "image_size", "model_type", "hidden_act", "num_channels", "layer_norm_eps",
                              "null", "true", "1e-5", "-1", "9223372036854775808"});
}

// Pieces of pickles of protocol 2.
std::string text(const std::string& value) {
  return std::string("X") + static_cast<char>(value.size()) + std::string(3, '\0') + value;
}
std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
std::string small(int value) { return std::string("K") + static_cast<char>(value); }

/// torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)
std::string tensor(const std::string& storage, int offset, int rows, int columns) {
  return global("torch._utils", "_rebuild_tensor_v2") + "((" + text("storage") + global("torch", "FloatStorage") +
         text(storage) + text("cpu") + small(16) + "tQ" + small(offset) + small(rows) + small(columns) + "\x86" +
         small(columns) + small(1) + "\x86" + "\x89" + global("collections", "OrderedDict") + ")RtR";
}

void pickle_seeds() {
  const std::string head("\x80\x02", 2);
  seed("pickle", "dict", head + "}(" + text("a") + tensor("0", 0, 2, 8) + text("b") + tensor("1", 1, 3, 5) + "u.");
  const std::string attributes = "}(" + text("arch") + text("vit_tiny") + text("lr") + "G" +
                                 std::string("\x3f\x50\x62\x4d\xd2\xf1\xa9\xfc", 8) + "u";
  seed("pickle", "nested",
       head + "}(" + text("teacher") + global("collections", "OrderedDict") + ")R(" + text("w") + tensor("0", 0, 4, 4) +
           "u" + text("epoch") + small(7) + text("args") + global("argparse", "Namespace") + ")\x81" + attributes +
           "b" + text("more") + "]q\x01(h\x01N\x88" + "eu.");
  seed("pickle", "parameter",
       head + "}" + text("p") + global("torch._utils", "_rebuild_parameter") + tensor("0", 0, 4, 2) + "\x88N\x87Rs.");
  seed("pickle", "protocol4",
       std::string("\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94(\x8c\x01k\x94\x8c\x05torch\x8c\x01s"
                   "\x93\x8a\x02\x01\x02u.",
                   35));
  dictionary("pickle", {"torch._utils\n_rebuild_tensor_v2\n", "torch\nFloatStorage\n", "torch\nHalfStorage\n",
                        "torch\nLongStorage\n", "torch\nBoolStorage\n", "collections\nOrderedDict\n",
                        "argparse\nNamespace\n", "copy_reg\n_reconstructor\n", "storage",
                        std::string("\x8d\xff\xff\xff\xff\xff\xff\xff\xff", 9), tensor("0", 0, 1, 1)});

  // A long text used many times: as the name of a global, as the name and the text of entries, a dictionary in many
  // places.
  const std::string length = std::string("\0\x20\0\0", 4);
  const std::string long_text = "X" + length + std::string(8192, 'n');
  std::string globals, entries, dictionaries;
  for (int i = 0; i < 10000; ++i) {
    globals += std::string("h\0h\0\x93", 5) + "0";
    dictionaries += "K" + std::string(1, static_cast<char>(i)) + std::string("h\1", 2);
    entries += std::string("X\2\0\0\0", 5) + static_cast<char>('a' + i % 26) + static_cast<char>('a' + i / 26 % 26) +
               std::string("h\0", 2);
  }
  seed("pickle", "long_globals", head + long_text + std::string("q\0", 2) + globals + "0}.");
  seed("pickle", "long_names",
       head + long_text + std::string("q\0", 2) + "0}(" + std::string("h\0", 2) + "}(" + entries + "uu.");
  std::string uses;
  for (int i = 0; i < 5000; ++i) uses += text(std::to_string(i)) + std::string("h\1", 2);
  seed("pickle", "one_dictionary_often", head + "}q\1(" + dictionaries.substr(0, 20000) + "u0}(" + uses + "u.");

  // The old format: magic number, version, system, the object, the keys, and each storage behind its length.
  const std::string legacy = head + std::string("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 13) + head +
                             std::string("M\xe9\x03.", 4) + head + "}" + text("little_endian") + "\x88s." + head +
                             "}(" + text("a") + tensor("0", 0, 2, 8) + "u." + head + "](" + text("0") + "e." +
                             std::string("\x10\0\0\0\0\0\0\0", 8) + std::string(64, '\x3f');
  seed("torch_file", "legacy", legacy);
}

/// A tar file of one empty folder, one file and, where it is asked for, something that is refused.
std::string tar(bool compressed, const char* odd_name, const char* link) {
  std::vector<char> bytes(1 << 16);
  std::size_t used = 0;
  archive* a = archive_write_new();
  archive_write_set_format_ustar(a);
  if (compressed) archive_write_add_filter_gzip(a);
  archive_write_set_bytes_in_last_block(a, 1);
  archive_write_open_memory(a, bytes.data(), bytes.size(), &used);
  const auto add = [&](const char* name, unsigned type, std::string_view data) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, type);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, static_cast<std::int64_t>(data.size()));
    if (type == AE_IFLNK) archive_entry_set_symlink(entry, link);
    archive_write_header(a, entry);
    archive_write_data(a, data.data(), data.size());
    archive_entry_free(entry);
  };
  add("folder", AE_IFDIR, "");
  add("folder/file.txt", AE_IFREG, "content");
  if (link != nullptr) add("link", AE_IFLNK, "");
  if (odd_name != nullptr) add(odd_name, AE_IFREG, "odd");
  archive_write_close(a);
  archive_write_free(a);
  return {bytes.data(), used};
}

void archive_seeds() {
  seed("archive", "tar", tar(false, nullptr, nullptr));
  seed("archive", "tar_gz", tar(true, nullptr, nullptr));
  seed("archive", "parent", tar(false, "folder/../../escaped", nullptr));
  seed("archive", "absolute", tar(false, "/tmp/escaped", nullptr));
  seed("archive", "through_link", tar(false, "link/escaped", ".."));
  seed("archive", "zip", fuzz::stored_zip({{"folder/", ""}, {"folder/a", "content"}}));
  seed("archive", "zip_parent", fuzz::stored_zip({{"../escaped", "x"}}));
  dictionary("archive", {"../", "/", "PK\1\2", "PK\3\4", "PK\5\6", "ustar", "0000000"});
}

/// gzip with one stored block.
std::string gzip(const std::string& bytes) {
  const auto length = static_cast<unsigned>(bytes.size());
  std::string stored("\x01", 1);
  for (const unsigned value : {length, ~length})
    stored += {static_cast<char>(value & 255), static_cast<char>(value >> 8 & 255)};
  const auto sum = crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), length);
  std::string trailer(8, '\0');
  for (std::size_t i = 0; i < 4; ++i) {
    trailer[i] = static_cast<char>(sum >> (8 * i));
    trailer[4 + i] = static_cast<char>(length >> (8 * i));
  }
  return std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10) + stored + bytes + trailer;
}

void data_set_seeds() {
  const std::string labels("\0\0\x08\x01\0\0\0\x02\x03\x05", 10);
  const std::string pictures = std::string("\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x03", 16) + std::string(12, '\x7f');
  const auto idx = [](const std::string& first, const std::string& second) {
    return std::string{static_cast<char>(first.size()), 0} + first + second;
  };
  seed("idx", "plain", idx(labels, pictures));
  seed("idx", "gzip", idx(gzip(labels), gzip(pictures)));
  seed("idx", "gzip_name",
       idx(labels, std::string("\x1f\x8b\x08\x1c\0\0\0\0\0\x03\x02\0ex", 14) + "n" + '\0' + "c" + '\0' +
                       gzip(pictures).substr(10)));
  seed("cifar10", "one", std::string("\x03", 1) + std::string(3072, '\x40'));
  seed("cifar10", "two", std::string(2 * 3073, '\x09'));
  seed("list_file", "plain", "# pictures\na.png\r\n\nsub/b c.png\n");
  seed("list_file", "classes", "a.png\tcat\nsub/b c.png\tdog\n");
  seed("list_file", "numbers",
       "\xef\xbb\xbf"
       "a.png\t10\nsub/b c.png\t2\n");
  dictionary("list_file", {"a.png", "sub/b c.png", "\t", "\r\n", "../", "16777215"});
  seed("tiny_imagenet", "both", std::string("n01\nn02\n") + '\0' + "v.JPEG\tn01\t0\t1\t2\t3\n");
  seed("tiny_imagenet", "boxes", std::string("n01\n") + '\0' + "a.JPEG\t0\t1\t62\t63\n");
  dictionary("tiny_imagenet", {"n01", "v.JPEG", "a.JPEG", "2147483647", "\t"});
}

void picture_seeds() {
  const Image image = gradient_image(9, 13);
  const auto jpeg = [&](const std::string& name, const JpegOptions& options) {
    const std::string bytes = text_of(encode_jpeg(image, options));
    seed("jpeg", name, "\xc8" + bytes);
    return bytes;
  };
  seed("picture", "jpeg", jpeg("color", {}));
  jpeg("grey", {.components = 1});
  jpeg("cmyk", {.components = 4});
  jpeg("ycck", {.components = 4, .ycck = true});
  jpeg("progressive", {.progressive = true});
  jpeg("turned", {.orientation = 6});
  jpeg("turned_big_endian", {.orientation = 5, .exif_big_endian = true});
  const auto marker = [](int value) { return std::string{'\xff', static_cast<char>(value)}; };
  std::vector<std::string> markers{std::string("Exif\0\0", 6), std::string("II*\0\x08\0\0\0", 8), "Adobe"};
  for (const int value :
       {0xc0, 0xc1, 0xc2, 0xc4, 0xc9, 0xca, 0xcc, 0xd0, 0xd8, 0xd9, 0xda, 0xdb, 0xdd, 0xe0, 0xe1, 0xee})
    markers.push_back(marker(value));
  dictionary("jpeg", markers);

  const auto png = [](int depth, int kind, std::size_t row_bytes, const char* palette = "", const char* clear = "") {
    std::string rows;
    for (int row = 0; row < 5; ++row)  // each with another filter
      rows += static_cast<char>(row) + std::string(row_bytes, static_cast<char>(37 * row));
    return text_of(handmade_png(4, 5, depth, kind, rows, palette, clear));
  };
  seed("picture", "png_grey", png(8, 0, 4));
  seed("picture", "png_grey_1", png(1, 0, 1));
  seed("picture", "png_rgb", png(8, 2, 12));
  seed("picture", "png_palette", png(2, 3, 1, "abcdefghijkl", "\x10\x80"));
  seed("picture", "png_grey_alpha", png(8, 4, 8));
  seed("picture", "png_rgba_16", png(16, 6, 32));
  seed("picture", "png_deflated", text_of(encode_png(image.rgb, image.height, image.width, 3)));
  const auto u16 = [](int value) { return std::string{static_cast<char>(value), static_cast<char>(value >> 8)}; };
  // A 2-colour GIF of 3×2 pixels, with transparency: clear, 0, 1, 1, 0, 0, 1, end in 3-bit codes.
  seed("picture", "gif",
       "GIF89a" + u16(3) + u16(2) + std::string("\x80\0\0", 3) + std::string("\0\0\0\xff\x80\x40", 6) +
           std::string("!\xf9\x04\x01\0\0\0\0", 8) + "," + u16(0) + u16(0) + u16(3) + u16(2) +
           std::string("\0\x02\x03\x44\x02\x05\0;", 8));
  const auto bmp = [&](int bits, const std::string& pixels, int compression, const std::string& between) {
    const int offset = 54 + static_cast<int>(between.size());
    return "BM" + u16(offset + static_cast<int>(pixels.size())) + std::string(6, '\0') + u16(offset) + u16(0) +
           u16(40) + u16(0) + u16(2) + u16(0) + u16(2) + u16(0) + u16(1) + u16(bits) + u16(compression) +
           std::string(22, '\0') + between + pixels;
  };
  seed("picture", "bmp_24", bmp(24, std::string(16, '\x55'), 0, ""));
  seed("picture", "bmp_8", bmp(8, std::string(8, '\x01'), 0, std::string(1024, '\x33')));
  seed("picture", "bmp_1", bmp(1, std::string(8, '\x40'), 0, std::string(8, '\x33')));
  seed("picture", "bmp_16", bmp(16, std::string(8, '\x7a'), 0, ""));
  seed("picture", "bmp_masks", bmp(32, std::string(16, '\x7a'), 3, std::string("\0\0\xff\0\0\xff\0\0\xff\0\0\0", 12)));
  const auto tga = [&](int palette, int kind, int bits, const std::string& rest) {
    return std::string{0, static_cast<char>(palette), static_cast<char>(kind)} +
           (palette != 0 ? std::string("\0\0\x02\0\x18", 5) : std::string(5, '\0')) + std::string(4, '\0') + u16(3) +
           u16(2) + static_cast<char>(bits) + '\x20' + rest;
  };
  seed("picture", "tga_rgb", tga(0, 2, 24, std::string(18, '\x60')));
  seed("picture", "tga_rgba_runs",
       tga(0, 10, 32,
           std::string("\x82"
                       "abcd"
                       "\x02"
                       "abcdefghijkl",
                       18)));
  seed("picture", "tga_grey", tga(0, 3, 8, std::string(6, '\x60')));
  seed("picture", "tga_palette", tga(1, 1, 8, "abcdef" + std::string(6, '\x01')));
  seed("picture", "pgm", "P5 # note\n3 2\n255\nabcdef");
  seed("picture", "ppm_16", "P6\n2 1\n65535\nabcdefghijkl");
  dictionary("picture",
             {"IHDR", "PLTE", "tRNS", "IDAT", "IEND", "CgBI", "GIF87a", "GIF89a", "BM", "P5\n", "P6\n", "!\xf9"});
}

void checkpoint_seeds() {
  const std::string health =
      R"({"window":[[6,0,10.9,10.8,0.1,2.5,3.1],[7,0,10.8,10.7,0.1,2.4,3.2]],"skips":[5],"good_steps":7,"blocks":0,)"
      R"("loss_blocks":[0,0,0,0],"kl_blocks":[0,0,0,0],"first_center_norm":0.0,"largest_gradient":2.5,"last_spike":-1,)"
      R"("conditions":{"one_output":[false,0],"not_finite":[true,3]}})";
  const auto texts = [](std::initializer_list<std::string> all) {
    std::string joined;
    for (const std::string& text : all) joined += text + '\0';
    return joined;
  };
  const std::string counts("\x07\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0", 16);
  const std::string config = write_config({});
  // What follows the first byte: the target says how it is read.
  seed("checkpoint", "said", "s" + texts({config, "1", "3", "8", "1", health, "0.25", "0", "true", "6"}) + counts);
  seed("checkpoint", "without_health", "s" + texts({config, "0", "0", "0", "1"}));
  seed("checkpoint", "other_spread",
       "s" + texts({"batch_size_per_gpu = 16\naccumulation = 2\n", "2", "6", "9", "2", "", "-1", "1", "false"}));

  const std::vector<float> zeros(8, 0.0F);
  const std::vector<std::int64_t> updates{7, 6};
  std::vector<NamedArray> arrays;
  for (const std::string prefix : {"student.", "teacher.", "optimizer.first_moment.", "optimizer.second_moment."}) {
    arrays.push_back({prefix + "backbone.cls_token", ConstArray(zeros.data(), Shape{1, 1, 2})});
    arrays.push_back({prefix + "head.last_layer.weight_v", ConstArray(zeros.data(), Shape{3, 2})});
  }
  arrays.push_back({"center", ConstArray(zeros.data(), Shape{3})});
  arrays.push_back({"optimizer.update_counts", ConstArray(updates.data(), Shape{2})});
  const fs::path file = root / "temporary";
  write_safetensors(file, arrays,
                    {{"config", "seed = 0\n"},
                     {"epoch", "1"},
                     {"batch", "3"},
                     {"step", "8"},
                     {"ranks", "1"},
                     {"best_score", "0.25"},
                     {"rollbacks", "0"},
                     {"healthy", "true"},
                     {"health", health}});
  seed("checkpoint", "file", std::string(1, '\0') + content(file));
  fs::remove(file);
  std::vector<std::string> words{"window",
                                 "skips",
                                 "good_steps",
                                 "blocks",
                                 "loss_blocks",
                                 "last_spike",
                                 "conditions",
                                 "[true,9007199254740992]",
                                 "-9223372036854775808",
                                 "9223372036854775807",
                                 "1e308",
                                 "nan",
                                 "inf",
                                 std::string(1, '\0')};
  for (const ConfigKey& key : config_keys()) words.emplace_back(key.name);
  dictionary("checkpoint", words);
}

void feature_seeds() {
  NamedFeatures features;
  features.table = {.width = 2, .values = {1, 0, 0, 1}, .labels = {0, 1}, .samples = {0, 1}, .broken = {}};
  features.names = {"a.jpg", "b, \"c\".jpg"};
  features.class_names = {"cat", "dog"};
  features.recipe.weights = "last.safetensors";
  features.recipe.network = "teacher";
  for (const bool classes : {true, false}) {
    if (!classes) features.class_names.clear();
    const fs::path file = root / "temporary.safetensors";
    write_features(file, features);
    seed("features", classes ? "classes" : "none", content(file));
    fs::remove(file);
  }
  dictionary("features",
             {"paths", "recipe", "class_names", "labels", "features", "F32", "I64", "\\\"", "crop_px", "1e99"});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_seeds FOLDER\n");
    return 2;
  }
  root = argv[1];
  try {
    fs::create_directories(root);
    config_seeds();
    weights_seeds();
    pickle_seeds();
    archive_seeds();
    data_set_seeds();
    picture_seeds();
    feature_seeds();
    checkpoint_seeds();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_seeds: %s\n", error.what());
    return 1;
  }
}
