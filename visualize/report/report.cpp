#include "visualize/report/report.h"

#include "engine/files.h"
#include "kernels/common/error.h"
#include "visualize/report/film_files.h"
#include "visualize/report/html.h"
#include "visualize/report/run_summary.h"
#include "visualize/report/svg_chart.h"
#include "visualize/report/verdict.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <iterator>

namespace dino {
namespace {

using Runs = std::vector<const RunHistory*>;

constexpr std::uintmax_t kMaxPictureBytes = 256 * 1024;  // of one picture of a film

/// What every part of the page needs to know.
struct Page {
  Runs runs;
  std::vector<std::string> names;
  bool several() const { return runs.size() > 1; }
  int style(std::size_t run) const { return static_cast<int>(run) % kChartStyles; }
};

std::string optional_number(const std::optional<double>& value, const char* suffix = "") {
  return value ? short_number(*value) + suffix : "–";
}

// ---- the answer ----

std::string mark(Verdict::Answer answer) {
  const char* path = answer == Verdict::Answer::yes  ? "M5 12.5l4.5 4.5L19 7.5"
                     : answer == Verdict::Answer::no ? "M7 7l10 10M17 7L7 17"
                                                     : "M9 9.5a3 3 0 1 1 4.2 2.8c-.9.5-1.2 1-1.2 2M12 17.2v.1";
  return fmt::format(
      "<svg class=\"mark\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"11\" "
      "fill=\"none\" stroke=\"currentColor\" stroke-width=\"1.5\"/><path d=\"{}\" fill=\"none\" "
      "stroke=\"currentColor\" "
      "stroke-width=\"2\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/></svg>",
      path);
}

std::string verdicts(const Page& page) {
  std::string html;
  for (std::size_t i = 0; i < page.runs.size(); ++i) {
    const Verdict verdict = judge(*page.runs[i]);
    const char* kind = verdict.answer == Verdict::Answer::yes  ? "good"
                       : verdict.answer == Verdict::Answer::no ? "bad"
                                                               : "unsure";
    html += fmt::format("<section class=\"verdict {}\" aria-label=\"Is it learning?\">{}<p class=\"answer\">", kind,
                        mark(verdict.answer));
    if (page.several()) html += fmt::format("<span class=\"run\">{}:</span> ", escape_html(page.names[i]));
    html += escape_html(verdict.headline) + "</p>\n<ul>";
    for (const std::string& line : verdict.evidence) html += "<li>" + escape_html(line) + "</li>";
    html += "</ul></section>\n";
  }
  return html;
}

std::string facts(const RunHistory& run) {
  const RunSummary s = summarize(run);
  std::string html = "<dl class=\"facts\">\n";
  const auto add = [&](const char* name, const std::string& value, const std::string& small) {
    html += fmt::format("<div><dt>{}</dt><dd>{}", name, escape_html(value));
    if (!small.empty()) html += fmt::format("<small>{}</small>", escape_html(small));
    html += "</dd></div>\n";
  };
  add("Epochs done", fmt::format("{}", s.epochs), s.wanted_epochs ? fmt::format("of {:.0f}", *s.wanted_epochs) : "");
  add("Steps", fmt::format("{}", s.steps),
      run.steps_per_epoch > 0 ? fmt::format("{:.0f} an epoch", run.steps_per_epoch) : "");
  add("Loss", optional_number(s.loss), s.lowest_loss ? "lowest " + short_number(*s.lowest_loss) : "");
  if (const auto knn = RunHistory::best(s.teacher))
    add("k-NN, teacher", fmt::format("{:.1f} %", knn->top1),
        s.untrained ? fmt::format("untrained {:.1f} %", *s.untrained) : fmt::format("k = {}", knn->k));
  add("Teacher entropy", optional_number(s.entropy),
      s.most_entropy ? "of at most " + short_number(*s.most_entropy) : "");
  add("Images a second", optional_number(s.images_per_second),
      s.data_wait_share ? fmt::format("{:.1f} % waiting for data", 100 * *s.data_wait_share) : "");
  return html + "</dl>\n";
}

std::string comparison_table(const Page& page) {
  std::vector<RunSummary> summaries;
  for (const RunHistory* run : page.runs) summaries.push_back(summarize(*run));
  std::string html =
      "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Run</th><th class=\"number\" "
      "scope=\"col\">Epochs</th><th "
      "class=\"number\" scope=\"col\">Steps</th><th class=\"number\" scope=\"col\">Loss</th><th class=\"number\" "
      "scope=\"col\">Lowest loss</th><th class=\"number\" scope=\"col\">k-NN, teacher</th><th class=\"number\" "
      "scope=\"col\">Untrained</th><th class=\"number\" scope=\"col\">Entropy</th><th class=\"number\" "
      "scope=\"col\">Images a second</th></tr></thead>\n<tbody>";
  for (std::size_t i = 0; i < summaries.size(); ++i) {
    const RunSummary& s = summaries[i];
    const auto knn = RunHistory::best(s.teacher);
    html += fmt::format("<tr><th scope=\"row\">{} {}</th>", chart_style_sample(page.style(i), false),
                        escape_html(page.names[i]));
    for (const std::string& cell :
         {fmt::format("{}", s.epochs), fmt::format("{}", s.steps), optional_number(s.loss),
          optional_number(s.lowest_loss), knn ? fmt::format("{:.1f} %", knn->top1) : std::string("–"),
          s.untrained ? fmt::format("{:.1f} %", *s.untrained) : std::string("–"), optional_number(s.entropy),
          optional_number(s.images_per_second)})
      html += fmt::format("<td class=\"number\">{}</td>", cell);
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

// ---- curves ----

struct CurveKind {
  const char *key, *title, *about;
  double factor = 1;
  const char* suffix = "";
  bool from_zero = false;
  bool uniform_level = false;  // ln K is the most that it can be
  double reach = 0;            // see Chart
};

constexpr CurveKind kProgress[] = {
    {"loss", "Loss", "Student against teacher, in nats. ln K is what uniform outputs have.", 1, "", false, true},
    {"entropy", "Teacher entropy", "In nats. At ln K the outputs are uniform, at 0 all alike: both are collapse.", 1,
     "", true, true},
    {"kl", "Student from teacher", "Loss without entropy (KL), in nats: what there is to learn at the moment.", 1, "",
     true},
    {"center_norm", "Norm of the center", "Mean of the teacher's logits. It settles; it should not run away.", 1, "",
     true},
    {"grad_norm", "Gradient norm", "Of all parameters together, before clipping.", 1, "", true},
};
constexpr CurveKind kSchedules[] = {
    {"lr", "Learning rate", "As scheduled.", 1, "", true},
    {"wd", "Weight decay", "As scheduled.", 1, "", false},
    {"momentum", "Teacher momentum", "The teacher keeps this share of itself at each step.", 1, "", false},
    {"teacher_temp", "Teacher temperature", "Lower is sharper.", 1, "", false},
};
constexpr CurveKind kSpeed[] = {
    {"images_per_second", "Images a second", "Of all devices together, data included.", 1, "", true},
    {"data_wait_share", "Waiting for data", "Share of a step. Above a few percent, give num_workers more threads.", 100,
     " %", true, false, 1},
};

/// Whether curves go over epochs: all runs must know how long theirs are.
bool over_epochs(const Page& page) {
  return std::all_of(page.runs.begin(), page.runs.end(),
                     [](const RunHistory* run) { return run->steps_per_epoch > 0; });
}

std::string curve(const Page& page, const CurveKind& kind) {
  const bool epochs = over_epochs(page);
  Chart chart{.title = kind.title, .about = kind.about, .x_name = epochs ? "epoch" : "step", .suffix = kind.suffix};
  if (kind.from_zero) chart.least = 0;
  if (kind.reach > 0) chart.reach = kind.reach;
  for (std::size_t i = 0; i < page.runs.size(); ++i) {
    const RunHistory& run = *page.runs[i];
    const Series& series = run.series(kind.key);
    if (series.empty()) continue;
    ChartLine line{page.several() ? page.names[i] : "", page.style(i), false, series.points()};
    for (SeriesPoint& point : line.points) {
      if (epochs) point.x = (point.x + 1) / run.steps_per_epoch;
      // Percents are said to two digits after the point.
      const auto scaled = [&](double y) { return kind.factor == 1 ? y : std::round(1e2 * kind.factor * y) / 1e2; };
      point = {point.x, scaled(point.low), scaled(point.mean), scaled(point.high)};
    }
    chart.lines.push_back(std::move(line));
    if (series.not_finite() > 0)
      chart.note +=
          fmt::format("{}{} values were not finite. ", page.several() ? page.names[i] + ": " : "", series.not_finite());
    const auto prototypes = run.config_number("out_dim");
    if (kind.uniform_level && prototypes && *prototypes >= 2) {
      const ChartLevel level{std::log(*prototypes), fmt::format("ln {:.0f}", *prototypes)};
      const bool there = std::any_of(chart.levels.begin(), chart.levels.end(),
                                     [&](const ChartLevel& other) { return other.name == level.name; });
      if (!there) chart.levels.push_back(level);
    }
  }
  return draw_chart(chart);
}

std::string knn_curve(const Page& page) {
  Chart chart{.title = "k-NN accuracy",
              .about = "Pictures whose class their nearest neighbours name, at the best k. This is the measure.",
              .x_name = "epoch",
              .suffix = " %"};
  for (std::size_t i = 0; i < page.runs.size(); ++i) {
    ChartLine teacher{page.several() ? page.names[i] : "teacher", page.style(i), false, {}};
    ChartLine student{page.several() ? page.names[i] + ", student" : "student", page.style(i), true, {}};
    std::optional<KnnScore> pixels;
    for (const KnnLine& line : page.runs[i]->knn) {
      const auto x = static_cast<double>(line.epoch + 1);
      if (const auto score = RunHistory::best(line.teacher))
        teacher.points.push_back({x, score->top1, score->top1, score->top1});
      if (const auto score = RunHistory::best(line.student))
        student.points.push_back({x, score->top1, score->top1, score->top1});
      // Every evaluation repeats it.
      if (const auto score = RunHistory::best(line.pixels)) pixels = score;
    }
    if (pixels && !page.several()) chart.levels.push_back({pixels->top1, "bare pixels"});
    const KnnLine* untrained = page.runs[i]->untrained();
    const auto score = untrained != nullptr ? RunHistory::best(untrained->teacher) : std::nullopt;
    if (score && !page.several()) chart.levels.push_back({score->top1, "untrained"});
    if (!teacher.points.empty()) chart.lines.push_back(std::move(teacher));
    if (!student.points.empty()) chart.lines.push_back(std::move(student));
  }
  return draw_chart(chart);
}

/// Of the teacher's features, from evaluations.
std::string rank_curve(const Page& page) {
  Chart chart{.title = "Feature rank",
              .about = "In how many directions the features of different pictures vary. A fall is a warning.",
              .x_name = "epoch"};
  chart.least = 0;
  for (std::size_t i = 0; i < page.runs.size(); ++i) {
    Series series;
    for (const KnnLine& line : page.runs[i]->knn) {
      if (line.rank) series.add(static_cast<double>(line.epoch + 1), *line.rank);
    }
    if (!series.empty())
      chart.lines.push_back({page.several() ? page.names[i] : "", page.style(i), false, series.points()});
  }
  return draw_chart(chart);
}

std::string curves(const Page& page) {
  std::string html = "<section id=\"curves\"><h2>Curves</h2>\n";
  html +=
      "<p class=\"lead\">Lines are means of neighbouring steps, bands go from the smallest to the largest of "
      "them.</p>\n";
  const auto group = [&](const char* title, const std::string& charts) {
    if (!charts.empty()) html += fmt::format("<h3>{}</h3>\n<div class=\"charts\">\n{}</div>\n", title, charts);
  };
  std::string progress;
  for (const CurveKind& kind : kProgress) {
    progress += curve(page, kind);
    if (&kind == kProgress) {
      progress += knn_curve(page);
      progress += rank_curve(page);
    }
  }
  group("What it learns", progress);
  std::string speed, schedules;
  for (const CurveKind& kind : kSpeed) speed += curve(page, kind);
  for (const CurveKind& kind : kSchedules) schedules += curve(page, kind);
  group("Speed", speed);
  group("Schedules", schedules);
  return html + "</section>\n";
}

// ---- pictures ----

/// A picture of a film as a data URI; empty where it is missing or no small file.
std::string picture_uri(const std::filesystem::path& path) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error || size == 0 || size > kMaxPictureBytes) return {};
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  return data_uri(path.extension() == ".png" ? "image/png" : "image/jpeg", std::as_bytes(std::span(bytes)));
}

std::string after_epochs(std::int64_t epochs) { return epochs == 0 ? "untrained" : fmt::format("epoch {}", epochs); }

std::string film_strip(const std::filesystem::path& folder, const std::string& kind, const std::string& extension,
                       const std::string& what) {
  const std::vector<FilmFrame> frames = film_frames(folder, kind, extension, kFilmFrames);
  const std::string source = picture_uri(folder / "pictures.jpg");
  std::string html;
  for (const FilmFrame& frame : frames) {
    const std::string uri = picture_uri(frame.file);
    if (uri.empty()) continue;
    html += fmt::format("<figure><img src=\"{}\" alt=\"{} of the pictures, {}\"><figcaption>{}</figcaption></figure>\n",
                        uri, what, after_epochs(frame.epochs), after_epochs(frame.epochs));
  }
  if (html.empty()) return {};
  if (!source.empty()) {
    std::string alt = "The pictures themselves";
    for (const FilmPicture& picture : film_pictures(folder)) alt += "; " + picture.name;
    html =
        fmt::format("<figure class=\"source\"><img src=\"{}\" alt=\"{}\"><figcaption>pictures</figcaption></figure>\n",
                    source, escape_html(alt)) +
        html;
  }
  return fmt::format("<div class=\"film{}\" tabindex=\"0\" role=\"group\" aria-label=\"{} by epoch\">\n{}</div>\n",
                     extension == "png" ? " cells" : "", what, html);
}

std::string film(const Page& page) {
  const auto strips = [&](const std::string& kind, const std::string& extension, const std::string& what) {
    std::string html;
    for (std::size_t i = 0; i < page.runs.size(); ++i) {
      const std::string strip = film_strip(page.runs[i]->folder / "film", kind, extension, what);
      if (strip.empty()) continue;
      if (page.several()) html += fmt::format("<h3>{}</h3>\n", escape_html(page.names[i]));
      html += strip;
    }
    return html;
  };
  const std::string attention = strips("attention", "jpg", "Attention");
  const std::string components = strips("components", "png", "Principal components");
  std::string html;
  if (!attention.empty())
    html +=
        "<section id=\"attention\"><h2>What it looks at</h2>\n<p class=\"lead\">Attention of the teacher's CLS token "
        "in "
        "the last block, mean of the heads, over the same pictures after each epoch. Light is much, dark is little, "
        "for each picture by itself.</p>\n" +
        attention + "</section>\n";
  if (!components.empty())
    html +=
        "<section id=\"components\"><h2>What it tells apart</h2>\n<p class=\"lead\">The first three principal "
        "components of the patch tokens as red, green and blue, in one basis for all pictures of an epoch, matched "
        "to the epoch before. Parts that the network finds alike have like colours.</p>\n" +
        components + "</section>\n";
  return html;
}

std::string neighbour_strips(const std::filesystem::path& folder, std::int64_t epochs) {
  const auto rows = film_neighbours(film_file(folder, "neighbours", epochs, "json"));
  std::string html;
  for (std::size_t q = 0; q < rows.size(); ++q) {
    const std::string uri = picture_uri(film_file(folder, "neighbours", epochs, fmt::format("{}.jpg", q)));
    if (uri.empty() || rows[q].empty()) continue;
    std::string alt = rows[q][0].name + " and the pictures nearest to it", captions;
    for (std::size_t i = 0; i < rows[q].size(); ++i) {
      const FilmPicture& picture = rows[q][i];
      const bool same = i > 0 && !picture.class_name.empty() && picture.class_name == rows[q][0].class_name;
      captions +=
          fmt::format("<li{}>{}{}{}</li>", same ? " class=\"same\"" : "",
                      i == 0 ? std::string("query") : fmt::format("{:.2f}", picture.similarity),
                      picture.class_name.empty() ? "" : "<br>" + escape_html(picture.class_name), same ? " ✓" : "");
      if (i > 0) alt += "; " + picture.name;
    }
    html += fmt::format("<figure class=\"strip\"><img src=\"{}\" alt=\"{}\"><ol>{}</ol></figure>\n", uri,
                        escape_html(alt), captions);
  }
  return html.empty() ? html : "<div class=\"neighbours\">\n" + html + "</div>\n";
}

std::string neighbours(const Page& page) {
  std::string html;
  for (std::size_t i = 0; i < page.runs.size(); ++i) {
    const std::filesystem::path folder = page.runs[i]->folder / "film";
    const std::vector<FilmFrame> frames = film_frames(folder, "neighbours", "json", 2);
    const std::string run = page.several() ? escape_html(page.names[i]) + ", " : "";
    for (auto frame = frames.rbegin(); frame != frames.rend(); ++frame) {
      const std::string strips = neighbour_strips(folder, frame->epochs);
      if (!strips.empty()) html += fmt::format("<h3>{}{}</h3>\n{}", run, after_epochs(frame->epochs), strips);
    }
  }
  if (html.empty()) return {};
  return "<section id=\"neighbours\"><h2>What it finds alike</h2>\n<p class=\"lead\">Each query with the five pictures "
         "whose teacher features are nearest to its own, out of a sample of the data set, and their cosines. A tick "
         "marks "
         "the query's class, where there are classes.</p>\n" +
         html + "</section>\n";
}

// ---- warnings, configuration, environment ----

std::string findings(const Page& page) {
  std::string html;
  for (std::size_t i = 0; i < page.runs.size(); ++i) {
    const RunHistory& run = *page.runs[i];
    std::string of_run;
    for (std::size_t at = 0; at < run.health.size(); ++at) {
      const HealthLine& line = run.health[at];
      if (line.state == "ends") continue;
      const HealthLine* end = run.end_of(at);
      const std::string until = end == nullptr ? ", goes on"
                                : end == &line ? ""
                                               : fmt::format(" to step {}", end->step);
      of_run += fmt::format(
          "<div class=\"finding{}\"><p><b>{}</b> {}</p>{}<p class=\"when\">{}, {} step {} (epoch "
          "{}){}</p></div>\n",
          end == nullptr ? " open" : "", escape_html(line.severity), escape_html(line.message),
          line.advice.empty() ? "" : "<p>Try: " + escape_html(line.advice) + ".</p>", escape_html(line.kind),
          end == &line ? "at" : "from", line.step, line.epoch, until);
    }
    const auto broken = run.epochs.find("broken");
    if (broken != run.epochs.end() && broken->second.last() > 0) {
      of_run += fmt::format(
          "<div class=\"finding\"><p><b>data</b> {} pictures could not be read; others stood in for "
          "them.</p><p>Remove or mend them:</p><ul>",
          short_number(broken->second.last()));
      for (const std::string& name : run.broken) of_run += "<li><code>" + escape_html(name) + "</code></li>";
      of_run += "</ul></div>\n";
    }
    if (run.unreadable_lines > 0)
      of_run += fmt::format("<div class=\"finding\"><p><b>logs</b> {} lines of the logs could not be read.</p></div>\n",
                            run.unreadable_lines);
    if (of_run.empty()) continue;
    if (page.several()) html += fmt::format("<h3>{}</h3>\n", escape_html(page.names[i]));
    html += of_run;
  }
  if (html.empty()) html = "<p>None.</p>\n";
  return "<section id=\"warnings\"><h2>Warnings</h2>\n" + html + "</section>\n";
}

std::string code(const std::string& text) {
  return text.empty() ? std::string("–") : "<code>" + escape_html(text) + "</code>";
}

std::string differences(const Page& page) {
  const auto different = config_differences(page.runs);
  if (different.empty()) return "<p>The configurations are the same.</p>\n";
  std::string html = "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Key</th>";
  for (const std::string& name : page.names) html += "<th scope=\"col\">" + escape_html(name) + "</th>";
  html += "<th scope=\"col\">Default</th></tr></thead>\n<tbody>";
  for (const ConfigDifference& d : different) {
    html += "<tr><th scope=\"row\">" + code(d.key) + "</th>";
    for (const std::string& value : d.values)
      html += fmt::format("<td{}>{}</td>", value == d.default_value ? "" : " class=\"changed\"", code(value));
    html += "<td>" + code(d.default_value) + "</td></tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string config_table_of(const RunHistory& run, bool changed) {
  std::string html =
      "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Key</th><th scope=\"col\">Value</th><th "
      "scope=\"col\">Default</th></tr></thead>\n<tbody>";
  std::size_t rows = 0;
  for (const ConfigEntry& entry : run.config) {
    if (entry.changed() != changed) continue;
    ++rows;
    html += fmt::format("<tr><th scope=\"row\">{}</th><td{}>{}</td><td>{}</td></tr>\n", code(entry.key),
                        changed ? " class=\"changed\"" : "", code(entry.value), code(entry.default_value));
  }
  return rows == 0 ? std::string() : html + "</tbody></table></div>\n";
}

std::string configuration(const Page& page) {
  std::string html = "<section id=\"configuration\"><h2>Configuration</h2>\n";
  if (page.several()) html += "<h3>Differences</h3>\n" + differences(page);
  for (std::size_t i = 0; i < page.runs.size(); ++i) {
    const std::string changed = config_table_of(*page.runs[i], true), rest = config_table_of(*page.runs[i], false);
    if (changed.empty() && rest.empty()) continue;
    const std::string title = page.several() ? escape_html(page.names[i]) : "Other than the default";
    if (page.several()) {
      html += fmt::format("<details><summary>{}: all that is other than the default</summary>\n{}</details>\n", title,
                          changed.empty() ? "<p>Nothing.</p>" : changed);
    } else {
      html += fmt::format("<h3>{}</h3>\n{}", title, changed.empty() ? "<p>Nothing.</p>" : changed);
      html += fmt::format("<details><summary>The keys that are as by default</summary>\n{}</details>\n", rest);
    }
  }
  return html + "</section>\n";
}

std::string environment(const Page& page) {
  std::string html;
  for (std::size_t i = 0; i < page.runs.size(); ++i) {
    const RunHistory& run = *page.runs[i];
    if (run.starts.empty()) continue;
    if (page.several()) html += fmt::format("<h3>{}</h3>\n", escape_html(page.names[i]));
    for (const RunStart& start : run.starts) {
      html += "<div class=\"scroll\"><table><tbody>";
      html += fmt::format("<tr><th scope=\"row\">{}</th><td>step {}</td></tr>\n",
                          start.step == 0 ? "begun at" : "gone on at", start.step);
      for (const auto& [key, value] : start.facts)
        html += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape_html(key), escape_html(value));
      html += "</tbody></table></div>\n";
    }
  }
  return html.empty() ? html : "<section id=\"environment\"><h2>Environment</h2>\n" + html + "</section>\n";
}

std::string navigation(const std::string& body) {
  constexpr const char* kSections[][2] = {{"curves", "Curves"},          {"attention", "Attention"},
                                          {"components", "Components"},  {"neighbours", "Neighbours"},
                                          {"warnings", "Warnings"},      {"configuration", "Configuration"},
                                          {"environment", "Environment"}};
  std::string html = "<nav aria-label=\"Sections\"><ul>";
  for (const auto& [id, name] : kSections) {
    if (body.find(fmt::format("<section id=\"{}\">", id)) != std::string::npos)
      html += fmt::format("<li><a href=\"#{}\">{}</a></li>", id, name);
  }
  return html + "</ul></nav>\n";
}

}  // namespace

std::string make_report(const std::vector<const RunHistory*>& runs) {
  require(!runs.empty(), "report", "there is no run to report on");
  const Page page{runs, run_names(runs)};
  const std::string title = page.several() ? fmt::format("{} runs compared", runs.size()) : page.names[0];

  const std::string main =
      curves(page) + film(page) + neighbours(page) + findings(page) + configuration(page) + environment(page);
  std::string body = "<header>\n";
  body += fmt::format(
      "<h1>{}</h1>\n<p class=\"about\">{}</p>\n", escape_html(title),
      page.several() ? "DINO self-supervised trainings" : "A DINO self-supervised training: is it learning?");
  body += verdicts(page);
  body += page.several() ? comparison_table(page) : facts(*runs[0]);
  body += navigation(main);
  body += "</header>\n<main>\n" + main + "</main>\n";
  body += fmt::format("<footer>Written by dino_cuda on {:%Y-%m-%d at %H:%M} UTC.</footer>",
                      fmt::gmtime(std::time(nullptr)));
  return html_page(title + " – dino_cuda", body);
}

void write_report(const std::vector<const RunHistory*>& runs, const std::filesystem::path& path) {
  AtomicFile file(path);
  file.write(make_report(runs));
  file.commit();
}

}  // namespace dino
