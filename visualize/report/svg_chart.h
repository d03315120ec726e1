#pragma once

#include "visualize/report/series.h"

#include <optional>
#include <string>
#include <vector>

namespace dino {

struct ChartLine {
  std::string name;
  int style = 0;        // colour and dashes: 0 to kChartStyles - 1
  bool second = false;  // another curve of the same run: the same colour, dotted
  std::vector<SeriesPoint> points;
};

/// A level to compare with.
struct ChartLevel {
  double y = 0;
  std::string name;
};

struct Chart {
  std::string title;
  std::string about;   // one line on what it means
  std::string x_name;  // epoch, step
  std::vector<ChartLine> lines = {};
  std::vector<ChartLevel> levels = {};
  std::string suffix = {};           // of values: " %"
  std::optional<double> least = {};  // where the y axis begins, for values that cannot be below
  std::optional<double> reach = {};  // what it reaches at least, so that next to nothing looks like it
  std::string note = {};             // below, such as that values were not finite
};

inline constexpr int kChartStyles = 6;

/// A sample of a line's style, for legends, as inline SVG.
std::string chart_style_sample(int style, bool second);

/// A figure of HTML: title, newest value, curves as inline SVG with means as lines and smallest to largest as bands,
/// and a legend where there are several lines. Colours come from the page's style; lines also differ in dashes. Empty
/// where no line has points.
std::string draw_chart(const Chart& chart);

}  // namespace dino
