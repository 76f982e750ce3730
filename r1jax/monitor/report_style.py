"""How the report looks: colours, type, and the few lines of script that read values out.

Series colours are Okabe and Ito's, which colour-blind readers tell apart, darkened for white paper
and lightened for dark screens; dashes tell them apart in grey.
"""

from collections.abc import Sequence

LIGHT = ("#0072b2", "#d55e00", "#00875f", "#b0508f", "#b57900", "#6b7280")
DARK = ("#5cb3ee", "#ff8f4d", "#2fc79a", "#e39ac8", "#f0bd4a", "#98a1ae")
DASHES = ("none", "none", "7 3", "2 3", "8 3 2 3", "4 3")
STYLES = len(LIGHT)

FONTS = (
    'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Liberation Sans",sans-serif'
)

SHAPES_CSS = f"""
svg text{{font-family:{FONTS};fill:var(--soft)}}
svg .title{{font-weight:500}}
svg .value{{font-weight:700;font-size:14px;paint-order:stroke;stroke:var(--card);stroke-width:4px;
stroke-linejoin:round}}
svg .cut{{font-size:11px}}
svg .middle{{text-anchor:middle}}
svg .end{{text-anchor:end}}
svg .grid{{stroke:var(--grid);stroke-width:1;fill:none}}
svg .axis{{stroke:var(--axis);stroke-width:1;fill:none}}
svg .line{{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}}
svg .band{{stroke:none;opacity:.14}}
svg .rod{{stroke:var(--axis);stroke-width:2.5;fill:none}}
svg circle{{stroke-width:2.5}}
svg .hollow{{fill:none}}
svg .paper{{fill:var(--card);stroke:var(--edge)}}
svg .paper~g .line{{stroke-width:2.75}}
"""


def series_css(colours: Sequence[str]) -> str:
    """Colour of every kind of mark, for each series."""
    return "".join(
        f".line.s{i},.hollow.s{i},.full.s{i}{{stroke:{c}}}"
        f".band.s{i},.bar.s{i},.full.s{i},svg .ink.s{i}{{fill:{c}}}"
        f".key.s{i}{{--c:{c}}}"
        for i, c in enumerate(colours)
    )


DASH_CSS = "".join(
    f".line.s{i}{{stroke-dasharray:{dash}}}" for i, dash in enumerate(DASHES) if dash != "none"
)

LIGHT_COLOURS = """--page:#f6f7f9;--card:#fff;--text:#171b22;--soft:#59616e;--grid:#e7eaee;
--axis:#b3bac4;--edge:#e1e5ea;--tint:#f1f3f6;--good:#00694a;--goodbg:#e2f4ec;--bad:#9c3d00;--badbg:#fdeadd;
--unsure:#4b5563;--unsurebg:#eceff3;--mark:#fff3c9;--focus:#0072b2"""
DARK_COLOURS = """--page:#0f1216;--card:#171b21;--text:#e8ebf0;--soft:#a2abb8;--grid:#272d36;
--axis:#4b5563;--edge:#282f39;--tint:#1e242c;--good:#5fdcb2;--goodbg:#11342a;--bad:#ffb083;--badbg:#40240f;
--unsure:#c3cad4;--unsurebg:#29303a;--mark:#4a3f14;--focus:#5cb3ee"""

CHART_CSS = (
    f":root{{{LIGHT_COLOURS}}}{SHAPES_CSS}{series_css(LIGHT)}{DASH_CSS}"
    f"@media (prefers-color-scheme:dark){{:root{{{DARK_COLOURS}}}{series_css(DARK)}}}"
)

LAYOUT_CSS = f"""
:root{{color-scheme:light dark}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--page);color:var(--text);font:16px/1.55 {FONTS};
-webkit-text-size-adjust:100%}}
main{{max-width:1180px;margin:0 auto;padding:40px 24px 64px}}
h1{{font-size:clamp(1.35rem,1rem + 1.6vw,2.05rem);line-height:1.25;letter-spacing:-.015em;
margin:.3em 0 .35em;text-wrap:balance}}
h2{{font-size:1.25rem;letter-spacing:-.01em;margin:52px 0 14px}}
h3{{font-size:1rem;margin:0 0 2px;line-height:1.35}}
figure h3{{display:flex;justify-content:space-between;gap:10px;align-items:baseline}}
.at{{color:var(--soft);font-size:.8rem;font-weight:400;white-space:nowrap;
font-variant-numeric:tabular-nums}}
p{{margin:.3em 0}}
.eyebrow{{color:var(--soft);font-size:.9rem;margin:0}}
.eyebrow b{{color:var(--text)}}
.lead{{font-size:1.08rem;max-width:46em}}
.note,figcaption,.rule{{color:var(--soft);font-size:.86rem;line-height:1.45}}
.card,figure{{background:var(--card);border:1px solid var(--edge);border-radius:12px;
padding:16px 18px;margin:0;min-width:0}}
.grid3{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:18px}}
.grid2{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(400px,100%),1fr));gap:18px;
}}
.grid2+.grid3{{margin-top:18px}}
.hero{{margin-top:26px;padding:20px 24px}}
.hero .narrow{{display:none}}
.hero .line{{stroke-width:2.75}}
.dumbbells svg{{max-width:480px}}
figcaption{{margin-top:10px}}
svg{{display:block;width:100%;height:auto;overflow:visible;margin-top:8px}}
svg[data-live]{{touch-action:pan-y;outline-offset:4px;border-radius:4px}}
svg .guide{{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 2}}
.legend{{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:4px 0 0;padding:0;
font-size:.84rem;color:var(--soft);font-variant-numeric:tabular-nums}}
.legend b{{color:var(--text);font-weight:600}}
.key{{display:inline-block;width:16px;height:0;border-top:3px solid var(--c);margin-right:6px;
vertical-align:middle;position:relative;top:-1px}}
.key.s2{{border-top-style:dashed}}.key.s3{{border-top-style:dotted}}
.key.s4,.key.s5{{border-top-style:dashed}}
.key.box{{height:10px;width:10px;border:0;background:var(--c);border-radius:2px}}
.key.hollow,.key.full{{height:11px;width:11px;border:2.5px solid var(--c);border-radius:50%}}
.key.full{{background:var(--c)}}
.badge{{display:inline-block;font-size:.74rem;font-weight:700;letter-spacing:.05em;line-height:1;
padding:5px 9px;border-radius:99px;white-space:nowrap}}
.pass{{color:var(--good);background:var(--goodbg)}}
.fail{{color:var(--bad);background:var(--badbg)}}
.unsure{{color:var(--unsure);background:var(--unsurebg)}}
.test header{{display:flex;gap:12px;align-items:baseline;justify-content:space-between;
margin-bottom:4px}}
.checks{{list-style:none;margin:10px 0;padding:0;font-size:.92rem;
font-variant-numeric:tabular-nums}}
.checks li{{padding:2px 0 2px 24px;position:relative}}
.checks li::before{{position:absolute;left:2px;font-weight:700}}
.checks .yes::before{{content:"✓" / "holds: ";color:var(--good)}}
.checks .no::before{{content:"✗" / "does not hold: ";color:var(--bad)}}
table{{border-collapse:collapse;width:100%;font-size:.94rem;font-variant-numeric:tabular-nums}}
th,td{{padding:7px 10px;text-align:right;border-bottom:1px solid var(--edge)}}
th:first-child,td:first-child{{text-align:left;padding-left:0;font-weight:400}}
th:last-child,td:last-child{{padding-right:0}}
thead th{{color:var(--soft);font-weight:500;font-size:.85rem}}
tbody tr:last-child>*{{border-bottom:0}}
td.main{{font-weight:600}}
.meter{{display:block;height:9px;border-radius:3px;background:var(--c);min-width:1px}}
td.bar{{width:40%}}
.totals td,.totals th{{padding-top:4px;padding-bottom:4px;font-size:.88rem}}
.totals table+.note+h3{{margin-top:16px}}
.pair{{display:grid;grid-template-columns:1fr 1fr;gap:18px;margin-bottom:18px}}
.side h3{{display:flex;justify-content:space-between;gap:10px;color:var(--soft);font-size:.84rem;
font-weight:500;margin-bottom:6px}}
pre{{font:.9rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
white-space:pre-wrap;overflow-wrap:anywhere;margin:0;unicode-bidi:isolate}}
.prompt{{background:var(--tint);border-radius:8px;padding:8px 12px;margin-bottom:4px}}
.sample{{padding:10px 0;border-bottom:1px solid var(--edge)}}
.sample:last-child{{border:0;padding-bottom:0}}
.sample pre{{max-height:24em;overflow:auto}}
.sample .tag{{color:var(--soft);opacity:.75}}
.sample mark{{background:var(--mark);color:inherit;font-weight:700;border-radius:3px;padding:0 3px}}
.facts{{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:center;font-size:.84rem;
color:var(--soft);margin-top:6px;font-variant-numeric:tabular-nums}}
.facts b{{color:var(--text)}}
details{{margin-top:18px}}
summary{{cursor:pointer;font-weight:600;padding:6px 0}}
details .grid3{{margin-top:10px}}
.config{{columns:2 340px;column-gap:40px;margin-top:10px}}
.config table{{break-inside:avoid;margin-bottom:16px;font-size:.85rem}}
.config th{{font-weight:600;color:var(--text)}}
.config td{{padding:3px 0;overflow-wrap:anywhere}}
.config td:last-child{{font-family:ui-monospace,Menlo,Consolas,monospace}}
footer{{margin-top:48px;color:var(--soft);font-size:.84rem}}
@media (max-width:640px){{
main{{padding:22px 14px 40px}}
h2{{margin-top:38px}}
.card,figure{{padding:14px 14px}}
.hero{{padding:16px 14px}}
.hero .wide{{display:none}}.hero .narrow{{display:block}}
.pair{{grid-template-columns:1fr;gap:10px}}
th,td{{padding:6px 6px}}
.config td:last-child{{max-width:45vw}}
}}
@media print{{
:root{{{LIGHT_COLOURS};--page:#fff}}
{series_css(LIGHT)}
html{{font-size:12px}}
body{{font-size:1rem}}
.sample pre{{max-height:none}}
main{{max-width:none;padding:0}}
.grid2,.grid3,.pair{{grid-template-columns:1fr 1fr;gap:12px}}
h2{{margin-top:26px}}
.card,figure,.test{{break-inside:avoid}}
h2{{break-after:avoid}}
}}
"""

# Pointer, finger or arrow keys on a chart: the legend shows the values there.
SCRIPT = """
document.querySelectorAll('figure[data-chart]').forEach(function(figure){
  var data=JSON.parse(figure.querySelector('script').textContent);
  var values=figure.querySelectorAll('.legend b'), at=figure.querySelector('.at');
  var first=[].map.call(values,function(b){return b.textContent}), said=at.textContent;
  figure.querySelectorAll('svg').forEach(function(svg,drawing){
    var px=data.px[drawing], ends=data.ends[drawing], now=px.length-1;
    var guide=document.createElementNS('http://www.w3.org/2000/svg','path');
    guide.setAttribute('class','guide');
    svg.appendChild(guide);
    svg.setAttribute('data-live','');
    svg.setAttribute('tabindex','0');
    function show(i){
      now=Math.max(0,Math.min(px.length-1,i));
      guide.setAttribute('d','M'+px[now]+' '+ends[0]+'V'+ends[1]);
      values.forEach(function(b,k){b.textContent=data.y[k][now]});
      at.textContent=data.label+' '+data.x[now];
    }
    function hide(){
      guide.setAttribute('d','');
      values.forEach(function(b,k){b.textContent=first[k]});
      at.textContent=said;
    }
    function point(event){
      var box=svg.getBoundingClientRect();
      var x=(event.clientX-box.left)*svg.viewBox.baseVal.width/box.width, best=0;
      px.forEach(function(p,i){if(Math.abs(p-x)<Math.abs(px[best]-x))best=i});
      show(best);
    }
    svg.addEventListener('pointermove',point);
    svg.addEventListener('pointerdown',point);
    svg.addEventListener('pointerleave',hide);
    svg.addEventListener('blur',hide);
    svg.addEventListener('keydown',function(event){
      var by={ArrowLeft:-1,ArrowRight:1}[event.key];
      if(by){show(now+by);event.preventDefault()}
    });
  });
});
"""
