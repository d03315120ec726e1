#include "data/scenes.h"

#include "data/file_dataset.h"
#include "data/png.h"
#include "engine/files.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

namespace dino {

namespace fs = std::filesystem;

namespace {

struct Stamp {
  std::string path;  // relative to the folder of stamps
  std::string class_name;
  std::string folder;  // CLASS__STAMP
};

struct Split {
  const char* name;
  int per_stamp;
  bool masks;
};

std::vector<Stamp> parse_table(std::string_view text, const std::string& name) {
  std::vector<Stamp> stamps;
  std::map<std::string, int> uses;
  std::int64_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (++line_number == 1 || line.empty()) continue;
    const std::size_t tab = line.find('\t');
    require(tab != std::string_view::npos && tab > 0 && tab + 1 < line.size(), "scenes",
            "{} line {}: expected path<tab>class", name, line_number);
    Stamp stamp{std::string(line.substr(0, tab)), std::string(line.substr(tab + 1)), {}};
    require(stamp.class_name.find('/') == std::string::npos && stamp.class_name.front() != '.', "scenes",
            "{} line {}: {} cannot name a folder", name, line_number, stamp.class_name);
    stamp.folder = stamp.class_name + "__" + fs::path(stamp.path).stem().string();
    ++uses[stamp.folder];
    stamps.push_back(std::move(stamp));
  }
  // Two pennies of two countries: the whole path tells them apart.
  for (Stamp& stamp : stamps) {
    if (uses[stamp.folder] == 1) continue;
    std::string flat = fs::path(stamp.path).replace_extension().string();
    std::replace(flat.begin(), flat.end(), '/', '-');
    stamp.folder = stamp.class_name + "__" + flat;
  }
  std::set<std::string> folders;
  for (const Stamp& stamp : stamps)
    require(folders.insert(stamp.folder).second, "scenes", "{}: {} comes twice; expected each cut-out once", name,
            stamp.path);
  return stamps;
}

std::vector<Image> load_photographs(const fs::path& folder, int size_px) {
  std::vector<Image> photographs;
  if (file_exists(folder)) {
    std::vector<std::byte> bytes;
    const PathList pictures = scan_folder(folder).pictures;
    for (std::int64_t i = 0; i < pictures.size(); ++i) {
      const fs::path picture = folder / pictures[i];
      // Drawings and gradients, the other wallpapers, come as PNG.
      read_picture_file(picture, bytes);
      if (detect_image_format(bytes) != ImageFormat::jpeg) continue;
      decode_image(bytes, picture.string(), {.min_side_px = 4 * size_px}, photographs.emplace_back());
    }
  }
  require(!photographs.empty(), "scenes",
          "no photographs (JPEG) under {}; try `sudo apt-get install mate-backgrounds`, or another folder",
          folder.string());
  return photographs;
}

void check_options(const SceneOptions& options) {
  const SceneStyle& style = options.style;
  require(style.size_px >= 8 && style.size_px <= 4096, "scenes", "size must be 8 to 4096 pixels; got {}",
          style.size_px);
  require(style.fill_min > 0 && style.fill_min <= style.fill_max && style.fill_max <= 1, "scenes",
          "fill must be a range within 0 to 1; got {} to {}", style.fill_min, style.fill_max);
  require(style.blur_min >= 0 && style.blur_min <= style.blur_max && style.blur_max <= 1, "scenes",
          "blur must be a range within 0 to 1 of the scene's side; got {} to {}", style.blur_min, style.blur_max);
  require(style.rotation_deg >= 0 && style.rotation_deg <= 180, "scenes", "rotation must be 0 to 180 degrees; got {}",
          style.rotation_deg);
  require(style.mirror >= 0 && style.mirror <= 1, "scenes", "the probability of mirroring must be 0 to 1; got {}",
          style.mirror);
  for (const int count : {options.train_per_stamp, options.val_per_stamp, options.test_per_stamp}) {
    require(count >= 0 && count <= 100000, "scenes", "scenes per stamp must be 0 to 100000; got {}", count);
  }
  require(options.train_per_stamp + options.val_per_stamp + options.test_per_stamp > 0, "scenes",
          "no scenes asked for");
  std::error_code ignored;
  require(!options.out.empty() && (!file_exists(options.out) || fs::is_empty(options.out, ignored)), "scenes",
          "{} exists; remove it, or choose another folder", options.out.string());
}

/// Not AtomicFile: thousands of small files would each wait for the disk. The folder's final name is what commits.
void write_file(const fs::path& path, const std::vector<std::byte>& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  require(!file.fail(), "scenes", "cannot write {}: {}", path.string(), std::strerror(errno));
}

}  // namespace

SceneSummary make_scenes(const SceneOptions& options, const std::function<void(std::int64_t, std::int64_t)>& progress) {
  check_options(options);
  const std::string table_name = options.table.empty() ? "data/stamps.tsv" : options.table.string();
  const std::string table_text =
      options.table.empty() ? std::string(built_in_stamps()) : read_text_file(options.table, kMostTextBytes);
  std::vector<Stamp> stamps = parse_table(table_text, table_name);

  SceneSummary summary;
  summary.missing_stamps = static_cast<int>(
      std::erase_if(stamps, [&](const Stamp& stamp) { return !file_exists(options.stamps / stamp.path); }));
  require(!stamps.empty(), "scenes", "no cut-outs of {} under {}; try `sudo apt-get install tuxpaint-stamps-default`",
          table_name, options.stamps.string());
  if (options.max_stamps > 0 && stamps.size() > static_cast<std::size_t>(options.max_stamps)) {
    stamps.resize(static_cast<std::size_t>(options.max_stamps));
  }
  const std::vector<Image> photographs = load_photographs(options.backgrounds, options.style.size_px);

  const std::array<Split, 3> splits = {{{"train", options.train_per_stamp, false},
                                        {"val", options.val_per_stamp, true},
                                        {"test", options.test_per_stamp, true}}};
  const fs::path final_path = fs::absolute(options.out).lexically_normal();
  fs::path partial = final_path.has_filename() ? final_path : final_path.parent_path();
  const fs::path target = partial;
  partial += ".part";
  std::error_code ignored;
  fs::remove_all(partial, ignored);

  const std::int64_t per_stamp = options.train_per_stamp + options.val_per_stamp + options.test_per_stamp;
  summary.scenes = per_stamp * static_cast<std::int64_t>(stamps.size());
  std::mutex mutex;  // of the three below
  std::int64_t done = 0;
  std::exception_ptr failure;
  std::atomic<std::size_t> next = 0;

  const auto draw_stamp = [&](const Stamp& stamp) {
    const CutOut cut_out = prepare_cut_out(decode_rgba_file(options.stamps / stamp.path), 2 * options.style.size_px);
    require(cut_out.height > 0, "scenes", "{} is wholly transparent", (options.stamps / stamp.path).string());
    for (std::size_t s = 0; s < splits.size(); ++s) {
      if (splits[s].per_stamp == 0) continue;
      const fs::path folder = partial / splits[s].name / stamp.folder;
      const fs::path masks = partial / "masks" / splits[s].name / stamp.folder;
      fs::create_directories(folder);
      if (splits[s].masks) fs::create_directories(masks);
      for (int n = 0; n < splits[s].per_stamp; ++n) {
        const Random random(options.seed ^ stable_hash(stamp.path), RandomStream::scenes, s,
                            static_cast<std::uint64_t>(n));
        const Scene scene = draw_scene(cut_out, photographs, options.style, random);
        const std::string name = fmt::format("{:03}.png", n);
        const int size_px = options.style.size_px;
        write_file(folder / name, encode_png(scene.image.rgb, size_px, size_px, 3));
        if (splits[s].masks) write_file(masks / name, encode_png(scene.mask, size_px, size_px, 1));
      }
    }
  };
  const auto work = [&] {
    for (std::size_t i = next++; i < stamps.size(); i = next++) {
      try {
        draw_stamp(stamps[i]);
        const std::lock_guard lock(mutex);
        done += per_stamp;
        if (progress) progress(done, summary.scenes);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next = stamps.size();
      }
    }
  };
  try {
    fs::create_directories(partial);
    const int wanted = options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
    std::vector<std::jthread> threads;
    for (int t = 1; t < std::min(wanted, static_cast<int>(stamps.size())); ++t) threads.emplace_back(work);
    work();
    threads.clear();  // waits
    if (failure) std::rethrow_exception(failure);

    std::string classes;
    std::set<std::string> class_names;
    for (const Stamp& stamp : stamps) {
      classes += stamp.folder + "\t" + stamp.class_name + "\n";
      class_names.insert(stamp.class_name);
    }
    AtomicFile file(partial / "classes.tsv");
    file.write(classes);
    file.commit();
    fs::remove(target, ignored);  // an empty folder, if any
    fs::rename(partial, target);
    summary.stamps = static_cast<int>(stamps.size());
    summary.classes = static_cast<int>(class_names.size());
    summary.photographs = static_cast<int>(photographs.size());
  } catch (const fs::filesystem_error& problem) {
    fs::remove_all(partial, ignored);
    fail("scenes", "cannot write {}: {}", target.string(), problem.code().message());
  } catch (...) {
    fs::remove_all(partial, ignored);
    throw;
  }
  return summary;
}

}  // namespace dino
