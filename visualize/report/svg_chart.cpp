#include "visualize/report/svg_chart.h"

#include "visualize/report/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace dino {
namespace {

// Of the drawing, which the page scales to the width that it has.
constexpr double kWidth = 400, kHeight = 210, kLeft = 46, kRight = 12, kTop = 10, kBottom = 24;

constexpr const char* kDashes[kChartStyles] = {"", "8 3", "2 3", "10 3 2 3", "5 2", "12 4 2 4 2 4"};

std::string dash_attribute(int style, bool second) {
  const char* dashes = second ? "1.5 3" : kDashes[style % kChartStyles];
  return *dashes == 0 ? "" : fmt::format(" stroke-dasharray=\"{}\"", dashes);
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void take(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  double size() const { return high - low; }
};

/// 1, 2 or 5 times a power of ten, so that about `count` of them fill `size`.
double tick_step(double size, int count) {
  const double rough = size / count, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power * 1.0001) return factor * power;
  }
  return 10 * power;
}

std::vector<double> ticks(const Range& range, int count) {
  const double step = tick_step(range.size(), count), first = std::ceil(range.low / step - 1e-6);
  std::vector<double> values;
  // Counted, as a number of 1e17 does not grow by adding 1.
  for (int i = 0; i <= 2 * count && (first + i) * step <= range.high + 1e-6 * step; ++i)
    values.push_back((first + i) * step);
  return values;
}

struct Axes {
  Range x, y;
  double at_x(double value) const { return kLeft + (value - x.low) / x.size() * (kWidth - kLeft - kRight); }
  double at_y(double value) const {
    return kHeight - kBottom - (value - y.low) / y.size() * (kHeight - kTop - kBottom);
  }
};

/// What the curves and levels take. Spikes of single steps may be cut off: the means decide.
Axes fit_axes(const Chart& chart) {
  Axes axes;
  for (const ChartLine& line : chart.lines) {
    for (const SeriesPoint& point : line.points) {
      axes.x.take(point.x);
      axes.y.take(point.mean);
    }
  }
  const double room = 0.08 * axes.y.size();
  axes.y = {axes.y.low - room, axes.y.high + room};
  for (const ChartLine& line : chart.lines) {
    Range band;
    for (const SeriesPoint& point : line.points) {
      band.take(point.low);
      band.take(point.high);
    }
    // Bands that are not much wider than the means are shown whole.
    if (band.size() <= 2 * axes.y.size()) {
      axes.y.take(band.low);
      axes.y.take(band.high);
    }
  }
  for (const ChartLevel& level : chart.levels) axes.y.take(level.y);
  if (chart.least) axes.y.low = *chart.least;
  if (chart.reach) axes.y.take(*chart.reach);
  const double smallest_size = std::max({1e-12, 1e-6 * std::abs(axes.y.low), 1e-6 * std::abs(axes.y.high)});
  if (axes.y.size() < smallest_size) {
    const double pad = axes.y.low == 0 ? 1 : 0.1 * std::abs(axes.y.low);
    axes.y = {axes.y.low - pad, axes.y.high + pad};
  }
  // From the beginning, to a whole epoch where one has just ended.
  if (axes.x.low < 0.15 * axes.x.high) axes.x.low = 0;
  if (std::ceil(axes.x.high) - axes.x.high < 0.02 * axes.x.size()) axes.x.high = std::ceil(axes.x.high);
  if (!(axes.x.size() > 0)) axes.x = {axes.x.low - 0.5, axes.x.high + 0.5};
  return axes;
}

/// A coordinate with one digit after the point at most.
void append_place(std::string& out, double x, double y) {
  const auto append = [&](double value) {
    std::string text = fmt::format("{:.1f}", value);
    if (text.ends_with(".0")) text.resize(text.size() - 2);
    out += text;
  };
  append(x);
  out += ' ';
  append(y);
}

std::string line_path(const Axes& axes, const std::vector<SeriesPoint>& points) {
  std::string path;
  for (const SeriesPoint& point : points) {
    path += path.empty() ? 'M' : 'L';
    append_place(path, axes.at_x(point.x), axes.at_y(point.mean));
  }
  return path;
}

std::string band_path(const Axes& axes, const std::vector<SeriesPoint>& points) {
  std::string path;
  for (const SeriesPoint& point : points) {
    path += path.empty() ? 'M' : 'L';
    append_place(path, axes.at_x(point.x), axes.at_y(point.high));
  }
  for (auto point = points.rbegin(); point != points.rend(); ++point) {
    path += 'L';
    append_place(path, axes.at_x(point->x), axes.at_y(point->low));
  }
  return path + 'Z';
}

/// Mean of the last twentieth of the points: a value that a single step does not decide.
double newest(const std::vector<SeriesPoint>& points) {
  const std::size_t count = std::max<std::size_t>(1, points.size() / 20);
  double sum = 0;
  for (std::size_t i = points.size() - count; i < points.size(); ++i) sum += points[i].mean;
  return sum / static_cast<double>(count);
}

/// What a reader who does not see the curve is told.
std::string description(const Chart& chart) {
  std::string text;
  for (const ChartLine& line : chart.lines) {
    if (line.points.empty()) continue;
    const SeriesPoint &first = line.points.front(), &last = line.points.back();
    Range range;
    for (const SeriesPoint& point : line.points) range.take(point.mean);
    text += fmt::format("{}{}from {}{} at {} {} to {}{} at {} {}; between {} and {}. ", line.name,
                        line.name.empty() ? "" : ": ", short_number(first.mean), chart.suffix, chart.x_name,
                        short_number(first.x), short_number(last.mean), chart.suffix, chart.x_name,
                        short_number(last.x), short_number(range.low), short_number(range.high));
  }
  for (const ChartLevel& level : chart.levels)
    text += fmt::format("Level {}: {}{}. ", level.name, short_number(level.y), chart.suffix);
  return text;
}

void append_levels(std::string& out, const Chart& chart, const Axes& axes) {
  // From above to below, so that names that would touch can be moved apart.
  std::vector<ChartLevel> levels = chart.levels;
  std::sort(levels.begin(), levels.end(), [](const ChartLevel& a, const ChartLevel& b) { return a.y > b.y; });
  double free_from = 0;
  for (const ChartLevel& level : levels) {
    const double y = axes.at_y(level.y);
    const double text_y = std::max({y - 4, kTop + 9, free_from});
    free_from = text_y + 12;
    out += fmt::format("<path class=\"level\" d=\"M{} {:.1f}H{}\"/>", kLeft, y, kWidth - kRight);
    out += fmt::format("<text class=\"level\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", kWidth - kRight - 2,
                       text_y, escape_html(level.name));
  }
}

}  // namespace

std::string chart_style_sample(int style, bool second) {
  return fmt::format(
      "<svg class=\"sample s{}\" viewBox=\"0 0 26 8\" width=\"26\" height=\"8\" aria-hidden=\"true\"><path "
      "class=\"line\" "
      "d=\"M1 4H25\"{}/></svg>",
      style % kChartStyles, dash_attribute(style, second));
}

std::string draw_chart(const Chart& chart) {
  const bool has_points =
      std::any_of(chart.lines.begin(), chart.lines.end(), [](const ChartLine& line) { return !line.points.empty(); });
  if (!has_points) return {};
  const Axes axes = fit_axes(chart);

  std::string figure = "<figure class=\"chart\">\n";
  figure += fmt::format("<figcaption><span class=\"title\">{}</span>", escape_html(chart.title));
  if (chart.lines.size() == 1)
    figure += fmt::format(" <span class=\"value\">{}{}</span>", short_number(newest(chart.lines[0].points)),
                          escape_html(chart.suffix));
  if (!chart.about.empty()) figure += fmt::format("<span class=\"about\">{}</span>", escape_html(chart.about));
  figure += "</figcaption>\n";

  figure += fmt::format(
      "<svg class=\"plot\" role=\"img\" viewBox=\"0 0 {} {}\" data-x=\"{} {}\" data-y=\"{} {}\" data-box=\"{} {} {} "
      "{}\" "
      "data-name=\"{}\"><title>{}</title><desc>{}</desc>\n",
      kWidth, kHeight, axes.x.low, axes.x.high, axes.y.low, axes.y.high, kLeft, kWidth - kRight, kTop,
      kHeight - kBottom, escape_html(chart.x_name), escape_html(chart.title), escape_html(description(chart)));
  const std::vector<double> y_ticks = ticks(axes.y, 4);
  for (const double value : y_ticks) {
    const double y = axes.at_y(value);
    figure += fmt::format("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", kLeft, y, kWidth - kRight);
    figure += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", kLeft - 6, y + 4,
                          short_number(std::abs(value) < 1e-9 * axes.y.size() ? 0 : value));
  }
  for (const double value : ticks(axes.x, 6)) {
    const double x = axes.at_x(value);
    figure += fmt::format("<path class=\"axis\" d=\"M{:.1f} {}v4\"/>", x, kHeight - kBottom);
    figure += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", x, kHeight - 6,
                          short_number(std::abs(value) < 1e-9 * axes.x.size() ? 0 : value));
  }
  figure += fmt::format("<path class=\"axis\" d=\"M{} {}H{}\"/>\n", kLeft, kHeight - kBottom, kWidth - kRight);
  // Where single values leave the axes, they are cut off at the frame.
  figure += fmt::format("<svg x=\"0\" y=\"{0}\" width=\"{1}\" height=\"{2}\" viewBox=\"0 {0} {1} {2}\">\n", kTop - 2,
                        kWidth, kHeight - kTop - kBottom + 4);
  for (const ChartLine& line : chart.lines) {
    if (line.points.empty()) continue;
    figure += fmt::format("<g class=\"s{}\">", line.style % kChartStyles);
    const bool has_band = std::any_of(line.points.begin(), line.points.end(),
                                      [](const SeriesPoint& point) { return point.high > point.low; });
    if (has_band) figure += fmt::format("<path class=\"band\" d=\"{}\"/>", band_path(axes, line.points));
    figure += fmt::format("<path class=\"line\" data-name=\"{}\" d=\"{}\"{}/>", escape_html(line.name),
                          line_path(axes, line.points), dash_attribute(line.style, line.second));
    if (line.points.size() <= 40) {
      for (const SeriesPoint& point : line.points)
        figure += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>", axes.at_x(point.x),
                              axes.at_y(point.mean), line.points.size() == 1 ? 3.5 : 2);
    }
    figure += "</g>\n";
  }
  figure += "</svg>\n";
  append_levels(figure, chart, axes);
  figure += "<g class=\"cursor\"></g></svg>\n";

  if (chart.lines.size() > 1) {
    figure += "<ul class=\"legend\">";
    for (const ChartLine& line : chart.lines) {
      if (line.points.empty()) continue;
      figure += fmt::format("<li>{}{} <b>{}{}</b></li>", chart_style_sample(line.style, line.second),
                            escape_html(line.name), short_number(newest(line.points)), escape_html(chart.suffix));
    }
    figure += "</ul>\n";
  }
  if (!chart.note.empty()) figure += fmt::format("<p class=\"note\">{}</p>\n", escape_html(chart.note));
  return figure + "</figure>\n";
}

}  // namespace dino
