#!/usr/bin/env python3
"""Draws a report of `dino_cuda bench --json` as SVG: each benchmark's share of the roofline, and how many times as long
each reference takes. Needs nothing but Python.

    scripts/plot_bench.py report.json [more.json] > docs/figures/performance.svg
"""
import html
import json
import math
import sys

COLOURS = {"memory": "#2b6cb0", "compute": "#c05621"}
MARKS = {"textbook": "#718096", "oneDNN": "#2f855a", "oracle": "#b794f4", "cuDNN": "#2f855a", "cuBLASLt": "#2f855a"}
ROW, LEFT, WIDTH, GAP = 17, 265, 300, 70


def text(x, y, words, anchor="start", size=11, colour="#1a202c"):
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{html.escape(words)}</text>'


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    reports = [json.load(open(path)) for path in sys.argv[1:]]
    keys = ("machine", "device", "threads", "clock", "shape", "images")
    for report in reports:
        if any(report[key] != reports[0][key] for key in keys):
            sys.exit("plot_bench: the reports were measured under different conditions")
    rows = [row for report in reports for row in report["results"] if "roofline_share" in row]
    top, bottom = 56, 30
    height = top + ROW * len(rows) + bottom
    second = LEFT + WIDTH + GAP
    total = second + WIDTH + 30
    most = max([ref["speedup"] for row in rows for ref in row["references"]] + [10])
    decades = math.ceil(math.log10(most))

    def at_share(share):
        return LEFT + WIDTH * min(share, 1.2) / 1.2

    def at_speedup(speedup):  # logarithmic, from 0.1
        return second + WIDTH * (min(max(math.log10(speedup), -1), decades) + 1) / (decades + 1)

    head = reports[0]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" font-family="sans-serif">',
           '<rect width="100%" height="100%" fill="white"/>',
           text(8, 18, f"{head['machine']}, {head['threads']} thread(s), {head['shape']}, {head['images']} images, "
                       f"{head['clock']} time, {head['date']}", size=12),
           text(LEFT, 40, "share of the roofline (blue: bound by memory, orange: by arithmetic)"),
           text(second, 40, "how many times as long it takes: " + ", ".join(
               sorted({ref["name"] for row in rows for ref in row["references"]})))]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = at_share(share)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - bottom}" stroke="#e2e8f0"/>')
        out.append(text(x, height - 12, f"{share:.0%}", "middle", 10))
    for power in range(-1, decades + 1):
        x = at_speedup(10.0**power)
        colour = "#1a202c" if power == 0 else "#e2e8f0"
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - bottom}" stroke="{colour}"/>')
        out.append(text(x, height - 12, f"×{10.0**power:g}", "middle", 10))
    for i, row in enumerate(rows):
        y = top + ROW * i
        out.append(text(LEFT - 8, y + 11, f"{row['operation']} {row['pass']} {row['type']}", "end"))
        width = at_share(row["roofline_share"]) - LEFT
        out.append(f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 5}" fill="{COLOURS[row["bound"]]}"/>')
        for ref in row["references"]:
            out.append(f'<circle cx="{at_speedup(ref["speedup"]):.1f}" cy="{y + 7}" r="4" '
                       f'fill="{MARKS.get(ref["name"], "#1a202c")}"><title>{html.escape(ref["name"])} '
                       f'×{ref["speedup"]:.2f}</title></circle>')
    out.append("</svg>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
