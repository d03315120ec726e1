// The page itself: sound HTML whatever a run's texts hold, bounded in size, curves in their places.
#include "data/decode.h"
#include "data/jpeg.h"
#include "data/png.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"
#include "train/config.h"
#include "visualize/report/film.h"
#include "visualize/report/film_files.h"
#include "visualize/report/html.h"
#include "visualize/report/report.h"
#include "visualize/report/svg_chart.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <set>

using namespace dino;
using namespace dino::test;

namespace {

/// The first mistake in the nesting of a page's elements; empty where every one is closed in its place, and no `<` or
/// unquoted attribute is left over. The contents of style and script are skipped.
std::string nesting_mistake(const std::string& html) {
  const std::set<std::string> empty_elements{"meta", "link", "img", "br"};
  std::vector<std::string> open;
  for (std::size_t at = 0; (at = html.find('<', at)) != std::string::npos;) {
    if (html.compare(at, 2, "<!") == 0) {
      at = html.find('>', at);
      continue;
    }
    const bool closing = html.compare(at, 2, "</") == 0;
    std::size_t end = at + (closing ? 2 : 1);
    const std::size_t begin = end;
    while (end < html.size() && (std::isalnum(static_cast<unsigned char>(html[end])) != 0)) ++end;
    const std::string name = html.substr(begin, end - begin);
    if (name.empty()) return "a bare < at: " + html.substr(at, 60);
    bool quoted = false;
    for (; end < html.size() && (quoted || html[end] != '>'); ++end) {
      if (html[end] == '"') quoted = !quoted;
      if (!quoted && html[end] == '<') return "a tag is not closed: " + html.substr(at, 60);
    }
    const bool self_closed = html[end - 1] == '/';
    at = end;
    if (closing) {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (!self_closed && !empty_elements.contains(name)) {
      open.push_back(name);
      if (name == "style" || name == "script") at = html.find("</" + name, at);
    }
  }
  return open.empty() ? "" : open.back() + " is never closed";
}

std::size_t count_of(const std::string& text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

/// A picture that compresses badly.
Image noise(int height, int width, unsigned seed) {
  std::mt19937 random(seed);
  Image image;
  image.resize(height, width);
  for (std::uint8_t& value : image.rgb) value = static_cast<std::uint8_t>(random());
  return image;
}

void write_bytes(const std::filesystem::path& path, const std::vector<std::byte>& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

/// All that a long run leaves, with pictures of noise, which are larger than real ones.
void write_long_run(const TemporaryFolder& folder, int epochs, int steps_per_epoch) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  std::string log, knn, films;
  for (int step = 0; step < epochs * steps_per_epoch; ++step) {
    const double progress = static_cast<double>(step) / (epochs * steps_per_epoch);
    nlohmann::ordered_json line{{"step", step}, {"epoch", step / steps_per_epoch}};
    for (const char* key : {"loss", "lr", "wd", "momentum", "teacher_temp", "student_temp", "grad_norm", "entropy",
                            "kl", "images_per_second", "data_wait_share", "center_norm"})
      line[key] = 5 - 2 * progress + 0.3 * normal(random);
    log += line.dump() + "\n";
  }
  for (int epoch = -1; epoch < epochs; ++epoch) {
    nlohmann::ordered_json line{{"step", (epoch + 1) * steps_per_epoch - 1}, {"epoch", epoch}};
    for (const char* network : {"teacher", "student"}) {
      for (const int k : {10, 20, 100, 200})
        line[network].push_back({{"k", k}, {"top1", 30 + 0.3 * epoch}, {"top5", 70}});
    }
    line["features"]["teacher"]["rank"] = 100.0 + epoch;
    line["pixels"].push_back({{"k", 10}, {"top1", 31.5}, {"top5", 70}});
    knn += line.dump() + "\n";
    films += fmt::format("{{\"step\":{},\"epoch\":{},\"broken\":0}}\n", (epoch + 1) * steps_per_epoch - 1, epoch);
  }
  folder.write("log.jsonl", log);
  folder.write("knn.jsonl", knn);
  folder.write("film/epochs.jsonl", films);
  folder.write("config.toml", write_config(TrainConfig()));
  const auto film = folder.path() / "film";
  write_bytes(film / "pictures.jpg", to_jpeg(noise(4 * Film::kTile_px, Film::kTile_px, 0), 80));
  const std::vector<std::byte> attention = to_jpeg(noise(4 * Film::kTile_px, Film::kTile_px, 1), 80);
  const Image cells = noise(4 * Film::kTile_px, Film::kTile_px, 2);
  const std::vector<std::byte> components = encode_png(cells.rgb, cells.height, cells.width, 3);
  const std::vector<std::byte> row = to_jpeg(noise(Film::kTile_px, 6 * Film::kTile_px, 3), 80);
  nlohmann::ordered_json names;
  for (int q = 0; q < 4; ++q) {
    for (int i = 0; i < 6; ++i)
      names["rows"][static_cast<std::size_t>(q)].push_back(
          {{"name", "data/train/some class/0001.jpg"}, {"class", "some class"}, {"similarity", 0.9}});
  }
  for (int epoch = 0; epoch <= epochs; ++epoch) {
    write_bytes(film_file(film, "attention", epoch, "jpg"), attention);
    write_bytes(film_file(film, "components", epoch, "png"), components);
    for (int q = 0; q < 4; ++q) write_bytes(film_file(film, "neighbours", epoch, fmt::format("{}.jpg", q)), row);
    folder.write(std::filesystem::relative(film_file(film, "neighbours", epoch, "json"), folder.path()), names.dump());
  }
}

}  // namespace

TEST_CASE("Text becomes HTML that says the same and does nothing", "[report]") {
  CHECK(escape_html("a < b & \"c\" > 'd'") == "a &lt; b &amp; &quot;c&quot; &gt; &#39;d&#39;");
  CHECK(escape_html("größer → 漢字 🙂") == "größer → 漢字 🙂");
  const std::string replaced = "\xEF\xBF\xBD";
  CHECK(escape_html("a\x01z\x7F") == "a" + replaced + "z" + replaced);
  CHECK(escape_html("\xFF\xC3") == replaced + replaced);
  CHECK(escape_html("\xC0\xAF") == replaced + replaced);                 // an overlong slash
  CHECK(escape_html("\xED\xA0\x80") == replaced + replaced + replaced);  // a surrogate
}

TEST_CASE("Base64 follows RFC 4648", "[report]") {
  // Section 10.
  const auto encoded = [](std::string_view text) { return data_uri("text/plain", as_bytes(text)).substr(23); };
  CHECK(data_uri("text/plain", {}) == "data:text/plain;base64,");
  CHECK(encoded("f") == "Zg==");
  CHECK(encoded("fo") == "Zm8=");
  CHECK(encoded("foo") == "Zm9v");
  CHECK(encoded("foobar") == "Zm9vYmFy");
  CHECK(encoded("\xFB\xFF\xFE") == "+//+");
}

TEST_CASE("Numbers are short and keep their sense", "[report]") {
  CHECK(short_number(0) == "0");
  CHECK(short_number(3.14159) == "3.14");
  CHECK(short_number(-2.5) == "−2.5");
  CHECK(short_number(0.0312) == "0.0312");
  CHECK(short_number(2e-5) == "2e−5");
  CHECK(short_number(1234.6) == "1235");
  CHECK(short_number(123.45) == "123.5");
  CHECK(short_number(2.5e9) == "2.5e9");
  CHECK(short_number(std::nan("")) == "not a number");
}

TEST_CASE("A chart puts its points in their places", "[report]") {
  Chart chart{.title = "Loss", .about = "", .x_name = "epoch"};
  chart.lines.push_back({"", 0, false, {{0, 0, 0, 0}, {5, 10, 10, 10}, {10, 0, 0, 0}}});
  chart.levels.push_back({5, "half"});
  const std::string svg = draw_chart(chart);
  CHECK(nesting_mistake(svg).empty());
  // The frame says which values its corners have; the line's ends and its top follow from them.
  const auto numbers = [&](const std::string& begin, char end) {
    const std::size_t from = svg.find(begin) + begin.size();
    std::string text = svg.substr(from, svg.find(end, from) - from);
    std::vector<double> values;
    for (char& c : text) c = c == 'M' || c == 'L' || c == 'H' ? ' ' : c;
    std::stringstream stream(text);
    for (double value = 0; stream >> value;) values.push_back(value);
    return values;
  };
  const auto box = numbers("data-box=\"", '"'), y = numbers("data-y=\"", '"');
  const auto line = numbers("class=\"line\" data-name=\"\" d=\"", '"');
  REQUIRE((box.size() == 4 && y.size() == 2 && line.size() == 6));
  const auto place = [&](double value) { return box[3] - (value - y[0]) / (y[1] - y[0]) * (box[3] - box[2]); };
  CHECK(std::abs(line[0] - box[0]) <= 0.051);
  CHECK(std::abs(line[2] - (box[0] + box[1]) / 2) <= 0.051);
  CHECK(std::abs(line[4] - box[1]) <= 0.051);
  CHECK(std::abs(line[1] - place(0)) <= 0.051);
  CHECK(std::abs(line[3] - place(10)) <= 0.051);
  CHECK(std::abs(numbers("class=\"level\" d=\"", '"')[1] - place(5)) <= 0.051);
  CHECK((y[0] <= 0 && y[1] >= 10));
}

TEST_CASE("A chart copes with curves of any kind", "[report]") {
  const auto draw = [](std::vector<SeriesPoint> points) {
    Chart chart{.title = "T", .about = "", .x_name = "step"};
    chart.lines.push_back({"", 0, false, std::move(points)});
    return draw_chart(chart);
  };
  CHECK(draw({}).empty());
  for (const auto& points : std::vector<std::vector<SeriesPoint>>{{{3, 2, 2, 2}},
                                                                  {{0, 0, 0, 0}, {1, 0, 0, 0}},
                                                                  {{0, 1e-30, 1e-30, 1e-30}, {1, 1e30, 1e30, 1e30}},
                                                                  {{0, -1e9, 5, 1e9}, {1, 4, 5, 6}},
                                                                  {{9e18, 1, 1, 1}, {9.000000000000002e18, 2, 2, 2}},
                                                                  {{0, -1e308, -1e308, -1e308}, {1e300, 1, 1, 1}}}) {
    const std::string svg = draw(points);
    CHECK(nesting_mistake(svg).empty());
    CHECK(svg.find("nan") == std::string::npos);
    CHECK(svg.find("inf") == std::string::npos);
  }
}

TEST_CASE("A hundred epochs take less than 5 MB, with every picture noise", "[report]") {
  const TemporaryFolder folder;
  write_long_run(folder, 100, 300);
  RunReader reader(folder.path());
  const std::string html = make_report({&reader.read()});
  CHECK(html.size() < 5'000'000);
  CHECK(nesting_mistake(html).empty());
  CHECK(count_of(html, "class=\"plot\"") == 13);
  // A level that every evaluation names is drawn once.
  CHECK(count_of(html, ">bare pixels<") == 1);
  CHECK(count_of(html, ">untrained</text>") == 1);
  // The first and the last frame are among those shown.
  CHECK(count_of(html, "Attention of the pictures, ") == kFilmFrames);
  CHECK(count_of(html, "Attention of the pictures, untrained") == 1);
  CHECK(count_of(html, "Attention of the pictures, epoch 100") == 1);
  CHECK(count_of(html, "class=\"strip\"") == 8);
  // Three such runs beside each other are still a page.
  RunReader second(folder.path()), third(folder.path());
  const std::string compared = make_report({&reader.read(), &second.read(), &third.read()});
  CHECK(nesting_mistake(compared).empty());
  CHECK(compared.size() < 15'000'000);
}

TEST_CASE("Nothing on the page comes from elsewhere", "[report]") {
  const TemporaryFolder folder;
  write_long_run(folder, 2, 10);
  RunReader reader(folder.path());
  const std::string html = make_report({&reader.read()});
  for (const char* attribute : {"src=\"", "href=\""}) {
    for (std::size_t at = 0; (at = html.find(attribute, at)) != std::string::npos; ++at) {
      const std::string value = html.substr(at + std::string(attribute).size(), 5);
      CHECK((value.starts_with("data:") || value.starts_with("#")));
    }
  }
  CHECK(html.find("@import") == std::string::npos);
  CHECK(html.find("url(") == std::string::npos);
}

TEST_CASE("Texts of a run cannot leave their places", "[report]") {
  const std::string hostile = R"x(</title></script><script>alert(1)</script><img src=x onerror="alert(2)"> ' & )x";
  const TemporaryFolder folder;
  write_long_run(folder, 2, 10);
  TrainConfig config;
  config.data_path = hostile;
  config.knn_train_path = hostile;
  folder.write("config.toml", write_config(config));
  const std::string text = nlohmann::json(hostile).dump();
  folder.write(
      "health.jsonl",
      fmt::format(R"({{"step":3,"kind":{0},"severity":{0},"state":"begins","message":{0},"advice":{0}}})", text) +
          "\n");
  folder.write("environment.jsonl", fmt::format(R"({{"step":0,{0}:{0}}})", text) + "\n");
  folder.write("film/epochs.jsonl",
               fmt::format(R"({{"step":0,"epoch":0,"broken":1,"broken_names":[{}]}})", text) + "\n");
  folder.write("film/film.json", fmt::format(R"({{"pictures":[{{"name":{0},"class":{0}}}]}})", text));
  const std::string picture = fmt::format(R"({{"name":{0},"class":{0},"similarity":0.5}})", text);
  folder.write("film/neighbours_0002.json", fmt::format(R"({{"rows":[[{0},{0}]]}})", picture));
  RunReader reader(folder.path()), second(folder.path());
  const RunHistory &one = reader.read(), &two = second.read();
  for (const std::string& html : {make_report({&one}), make_report({&one, &two})}) {
    CHECK(nesting_mistake(html).empty());
    CHECK(count_of(html, "<script>") == 1);
    CHECK(count_of(html, "onerror=\"") == 0);
    CHECK(count_of(html, "<title>") == 1 + count_of(html, "<svg class=\"plot\""));
    CHECK(count_of(html, "&lt;script&gt;alert(1)") > 5);
  }
}

TEST_CASE("Broken and foreign files of a film are passed over", "[report]") {
  const TemporaryFolder folder;
  folder.write("log.jsonl", "{\"step\":0,\"epoch\":0,\"loss\":1}\n");
  folder.write("film/attention_0001.jpg", "");
  folder.write("film/attention_x.jpg", "x");
  folder.write("film/attention_99999999999999999999.jpg", "x");
  folder.write("film/neighbours_0001.json", "{\"rows\": [1, {\"a\": [[[");
  folder.write("film/film.json", "[]");
  RunReader reader(folder.path());
  const std::string html = make_report({&reader.read()});
  CHECK(nesting_mistake(html).empty());
  CHECK(count_of(html, "<img") == 0);
}

TEST_CASE("Frames are chosen evenly, the first and the last among them", "[report]") {
  const TemporaryFolder folder;
  for (int i = 0; i < 50; ++i) folder.write(fmt::format("attention_{:04}.jpg", i), "x");
  const auto frames = film_frames(folder.path(), "attention", "jpg", 8);
  std::vector<std::int64_t> epochs;
  for (const FilmFrame& frame : frames) epochs.push_back(frame.epochs);
  CHECK(epochs == std::vector<std::int64_t>{0, 7, 14, 21, 28, 35, 42, 49});
  CHECK(film_frames(folder.path(), "attention", "jpg", 0).size() == 50);
  CHECK(film_frames(folder.path() / "nowhere", "attention", "jpg", 8).empty());
}

TEST_CASE("Colours stay with what they meant", "[report]") {
  std::mt19937 random(5);
  std::vector<Rgb> before(200);
  for (Rgb& color : before) {
    for (std::uint8_t& value : color) value = static_cast<std::uint8_t>(random() % 256);
  }
  // Every way to exchange and invert the channels is undone.
  std::array<std::size_t, 3> order{0, 1, 2};
  do {
    for (unsigned inverted = 0; inverted < 8; ++inverted) {
      std::vector<Rgb> changed(before.size());
      for (std::size_t i = 0; i < before.size(); ++i) {
        for (std::size_t c = 0; c < 3; ++c) {
          const std::uint8_t value = before[i][order[c]];
          changed[i][c] = (inverted >> c & 1U) != 0 ? static_cast<std::uint8_t>(255 - value) : value;
        }
      }
      CHECK(align_colors(changed, before) == before);
    }
  } while (std::next_permutation(order.begin(), order.end()));
  // Also through a little noise, to within it.
  std::vector<Rgb> noisy(before.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    for (std::size_t c = 0; c < 3; ++c)
      noisy[i][c] = static_cast<std::uint8_t>(
          std::clamp(255 - before[i][(c + 1) % 3] + static_cast<int>(random() % 21) - 10, 0, 255));
  }
  const std::vector<Rgb> aligned = align_colors(noisy, before);
  for (std::size_t i = 0; i < before.size(); ++i) {
    for (std::size_t c = 0; c < 3; ++c) CHECK(std::abs(aligned[i][c] - before[i][c]) <= 10);
  }
  CHECK(align_colors({{1, 2, 3}}, {{9, 9, 9}}).size() == 1);  // no variance: nothing to go by
  CHECK(contains(error_of([&] { align_colors(before, {}); }), "expected 0"));
}

TEST_CASE("A small JPEG is near to its picture", "[report]") {
  const Image picture = gradient_image(40, 60);
  const std::vector<std::byte> bytes = to_jpeg(picture, 95);
  Image decoded;
  decode_image(bytes, "small", {}, decoded);
  REQUIRE((decoded.height == 40 && decoded.width == 60));
  double square = 0;
  for (std::size_t i = 0; i < picture.rgb.size(); ++i) {
    const double difference = static_cast<double>(decoded.rgb[i]) - picture.rgb[i];
    square += difference * difference;
  }
  CHECK(std::sqrt(square / static_cast<double>(picture.rgb.size())) <= 4);
  CHECK(bytes.size() < picture.rgb.size() / 2);
  CHECK(contains(error_of([] { to_jpeg(Image(), 80); }), "expected 1 to 65535"));
}
