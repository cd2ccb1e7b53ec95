"""Curves of accuracy against multiply-adds as an SVG file, without a plotting package."""

import math

COLORS = ("#4269d0", "#efb118", "#ff725c", "#3ca951")
LEFT, TOP, WIDTH, HEIGHT = 70, 20, 520, 320


def draw(curves, path):
    """Draws curves in the manner of Tan & Le 2019, Figures 3 and 8; the multiply-adds on a logarithmic axis.

    Args:
        curves: {name: list of (multiply-adds, accuracy from 0 to 1)}
        path: The SVG file.
    """
    points = [point for curve in curves.values() for point in curve]
    low, high = (math.log(bound(x for x, _ in points)) for bound in (min, max))
    least, most = (bound(y for _, y in points) for bound in (min, max))
    span, rise = (high - low) or 1.0, (most - least) or 0.01

    def place(x, y):
        return LEFT + WIDTH * (math.log(x) - low) / span, TOP + HEIGHT * (1 - (y - least) / rise)

    def text(x, y, words, more=""):
        return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 170}" height="{TOP + HEIGHT + 60}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>',
        text(LEFT + WIDTH / 2, TOP + HEIGHT + 45, "multiply-adds", 'text-anchor="middle"'),
        text(LEFT, TOP - 6, "validation accuracy"),
    ]
    for x in sorted({x for x, _ in points} & {bound(x for x, _ in points) for bound in (min, max)}):
        parts.append(text(place(x, least)[0], TOP + HEIGHT + 20, f"{x / 1e6:.3g} M", 'text-anchor="middle"'))
    for y in sorted({least, most}):
        parts.append(text(LEFT - 6, place(points[0][0], y)[1] + 4, f"{y:.1%}", 'text-anchor="end"'))
    for number, (name, curve) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        corners = [place(x, y) for x, y in sorted(curve)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in corners]
        parts.append(text(LEFT + WIDTH + 12, TOP + 16 + 18 * number, name, f'fill="{color}"'))
    path.write_text("\n".join([*parts, "</svg>", ""]))
