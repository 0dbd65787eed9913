"""The page of a comparison as a Jinja template; a string, so that it is found however the package is installed."""

from __future__ import annotations

__all__ = ["TEMPLATE"]

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Comparison by {{ page.metric }}</title>
<style>
:root { --ink: #1b1f24; --soft: #57606a; --paper: #fff; --line: #d0d7de; --good: #116329; --bad: #a40e26;
  --link: #0550ae; --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #6e5a00;
  --c6: #0e7c86; --c7: #57606a; --c8: #a40e26; --c9: #3b3a8f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9ea7b3; --paper: #0d1117; --line: #3d444d; --good: #56d364; --bad: #ff7b72;
    --link: #79c0ff; --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff; --c4: #f778ba; --c5: #e3b341;
    --c6: #39c5cf; --c7: #b1bac4; --c8: #ff7b72; --c9: #a5a4ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
a { color: var(--link); } .soft, caption { color: var(--soft); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
.wide:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; min-width: 100%; }
caption { text-align: left; padding: .5rem; }
th, td { padding: .35rem .6rem; border-top: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
tbody th { font-weight: 600; }
.helps { color: var(--good); font-weight: 600; } .hurts { color: var(--bad); font-weight: 600; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .9rem; text-align: center; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 11px; }
svg polyline { fill: none; stroke-width: .7; opacity: .45; } svg polyline.mean { stroke-width: 2.2; opacity: 1; }
svg .dashed, .key.dashed { stroke-dasharray: 6 4; }
svg .grid { stroke: var(--line); stroke-width: .6; } svg .target { stroke: var(--soft); stroke-dasharray: 2 3; }
{% for number in range(10) %}
.c{{ number }} { stroke: var(--c{{ number }}); }
{% endfor %}
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
.legend svg { display: inline-block; width: 2rem; height: .7rem; vertical-align: middle; margin-right: .4rem; }
.key { stroke-width: 3; }
</style>
</head>
<body>
<main>
<h1>Which method helps?</h1>
<p>{{ page.sentence }}</p>

<h2 id="verdicts">Verdicts</h2>
{% if verdicts %}
<ul>
{% for one in verdicts %}
<li><strong>{{ one.method }}</strong>:
<span class="{{ one.word if one.word != 'no evidence' else 'soft' }}">{{ one.word }}</span>
<ul>
{% for name, word, told in one.parts %}
<li>{{ name }}: {{ word }}{{ " (" ~ told ~ ")" if told else "" }}</li>
{% endfor %}
</ul>
</li>
{% endfor %}
</ul>
{% else %}
<p>There is nothing to compare yet: no method and uniform have finished a run on the same seed.</p>
{% endif %}
{% if page.notes %}
<ul>
{% for method, note in page.notes.items() %}
<li>{{ method }} {{ note }}</li>
{% endfor %}
</ul>
{% endif %}

<h2 id="table">Table</h2>
<div class="wide" role="region" aria-labelledby="table" tabindex="0">
<table>
<caption>Mean and standard deviation over seeds; medians of what it took to get to the target; cost as a multiple of
uniform's.</caption>
<thead><tr>
{% for head in heads %}
<th scope="col">{{ head }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row[0] }}</th>
{% for cell in row[1:] %}
<td{% if cell in ("helps", "hurts") %} class="{{ cell }}"{% endif %}>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>

{% if panels %}
<h2 id="curves">Curves of {{ page.metric }}</h2>
<p class="soft">Thick lines are means over seeds, thin ones runs, dashed ones uniform at equal cost.
{% if page.target is not none %}The dotted line is the target, {{ "%.4g" | format(page.target) }}.{% endif %}
</p>
<ul class="legend">
{% for method, (colour, dashed) in legend.items() %}
<li><svg viewBox="0 0 32 8" aria-hidden="true"><line class="key {{ colour }}{{ ' dashed' if dashed else '' }}" x1="0"
 y1="4" x2="32" y2="4"/></svg>{{ method }}</li>
{% endfor %}
</ul>
<div class="panels">
{% for panel in panels %}
<figure>
<svg viewBox="0 0 {{ size[0] }} {{ size[1] }}" role="img" aria-label="{{ page.metric }} against {{ panel.label }}; the
 numbers are in the tables">
{% for at, text in panel.across %}
<line class="grid" x1="{{ at }}" y1="10" x2="{{ at }}" y2="{{ size[1] - 42 }}"/>
<text x="{{ at }}" y="{{ size[1] - 26 }}" text-anchor="middle">{{ text }}</text>
{% endfor %}
{% for at, text in panel.up %}
<line class="grid" x1="52" y1="{{ at }}" x2="{{ size[0] - 10 }}" y2="{{ at }}"/>
<text x="46" y="{{ at + 4 }}" text-anchor="end">{{ text }}</text>
{% endfor %}
{% if panel.target is not none %}
<line class="target" x1="52" y1="{{ panel.target }}" x2="{{ size[0] - 10 }}" y2="{{ panel.target }}"/>
{% endif %}
{% for trace in panel.traces %}
<polyline class="{{ trace.colour }}{{ ' mean' if trace.mean else '' }}{{ ' dashed' if trace.dashed else '' }}"
 points="{{ trace.points }}"/>
{% endfor %}
</svg>
<figcaption>{{ panel.label }}</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}

{% if intervals %}
<h2 id="intervals">Intervals</h2>
<div class="wide" role="region" aria-labelledby="intervals" tabindex="0">
<table>
<caption>Paired 95 % intervals. In favour of the method are ratios below one and differences
{{ "above" if page.higher else "below" }} zero.</caption>
<thead><tr><th scope="col">method</th><th scope="col" class="text">against</th><th scope="col" class="text">in</th>
<th scope="col">mean</th><th scope="col">interval</th><th scope="col">says</th></tr></thead>
<tbody>
{% for row in intervals %}
<tr><th scope="row">{{ row[0] }}</th><td class="text">{{ row[1] }}</td><td class="text">{{ row[2] }}</td>
<td>{{ row[3] }}</td><td>{{ row[4] }}</td>
<td class="{{ row[5] if row[5] != 'no evidence' else 'soft' }}">{{ row[5] }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}

{% if failures %}
<h2 id="failures">Runs that failed</h2>
<ul>
{% for run in failures %}
<li>{{ run.method }}, seed {{ run.seed }}: {{ run.error }}</li>
{% endfor %}
</ul>
{% endif %}

{% if links %}
<h2 id="reports">Reports of runs</h2>
<ul>
{% for name, place in links %}
<li><a href="{{ place }}">{{ name }}</a></li>
{% endfor %}
</ul>
{% endif %}

<h2 id="how">How it was measured</h2>
<ul>
<li>{{ seeds }} {{ "seed" if seeds == 1 else "seeds" }}; on each, all methods start from the same random numbers and
draw from the same data in the same order. Runs for which that was not so, or which were evaluated less often, count as
failed.</li>
<li>"At equal steps" compares with uniform training of as many steps, by the final {{ page.final_metric }} and the steps
to the target. "At equal cost" compares with uniform training that is as long as the compute of the method lasts, with
its own learning-rate schedule over that length, by the final metric and the compute to the target. "Helps" is one of
the two better and the other not worse, "hurts" the reverse. The verdict is that at equal cost. A long uniform run may
overfit where a shorter one did not: where uniform with as many steps costs no more than the method, the method has to
be better than both to help, and hurts if it is worse than one of them.</li>
<li>Cost counts forward passes of a row, a backward pass as two, those of scoring and of reference models included.
Where it is within 5 % of uniform's, uniform itself is the baseline. Seconds include all of it, but no evaluation.</li>
<li>Intervals: at each end the wider of the expanded percentile bootstrap (Hesterberg, arXiv:1411.5279; 10,000
resamples) and Student's t, over paired seeds. They are not adjusted for the number of methods: of 20 methods that do
nothing, one is expected to look as if it did something.</li>
<li>The target is reached where the mean over an evaluation and the two before it crosses it, on a straight line between
evaluations.</li>
<li>The numbers: <a href="table.csv">table.csv</a>, <a href="intervals.csv">intervals.csv</a></li>
</ul>
</main>
</body>
</html>
"""
