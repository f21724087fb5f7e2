// The style of a report: one column on a phone, six on a desk; light or dark as the reader's system is.
#pragma once

#include <vaelib/version.hpp>

#include <string_view>

namespace vaelib::inline VAELIB_ABI {
namespace report {

inline constexpr std::string_view style = R"css(
:root { color-scheme: light dark;
  --page: #f4f5f7; --card: #fff; --ink: #1d232b; --muted: #5b6573; --rule: #dfe3e8; --mesh: #e9ecf0; --axis: #9aa4b0;
  --good: #0a7a55; --fair: #9a6200; --bad: #b3261e; --accent: #0072b2;
  --c0: #0072b2; --c1: #d9650f; --c2: #009673; --c3: #b84a90; --c4: #46464b;
  --c5: #3f9ad0; --c6: #b48c00; --c7: #96193c; --c8: #5f3ca0; --c9: #85898e; }
@media (prefers-color-scheme: dark) { :root {
  --page: #11151a; --card: #1a2027; --ink: #e8ebef; --muted: #a0aab6; --rule: #2d353f; --mesh: #29313a; --axis: #66717e;
  --good: #4cc79a; --fair: #e5ae4d; --bad: #ff8a80; --accent: #5db6ee;
  --c0: #4ba8e4; --c1: #f58a3c; --c2: #35c49f; --c3: #de82ba; --c4: #d3d6da;
  --c5: #9ad7fb; --c6: #ead05a; --c7: #e0607f; --c8: #a98ae8; --c9: #7f8790; } }
.s0 { --c: var(--c0) } .s1 { --c: var(--c1) } .s2 { --c: var(--c2) } .s3 { --c: var(--c3) } .s4 { --c: var(--c4) }
.s5 { --c: var(--c5) } .s6 { --c: var(--c6) } .s7 { --c: var(--c7) } .s8 { --c: var(--c8) } .s9 { --c: var(--c9) }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main, footer { max-width: 1200px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 40px; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 6px; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 52px 0 2px; scroll-margin-top: 16px; }
h3 { font-size: 1rem; margin: 0 0 10px; }
h3 small { font-weight: 400; color: var(--muted); font-size: .8125rem; margin-left: 6px; }
p { margin: 0 0 12px; max-width: 90ch; }
header > p, .lead, figcaption, footer { color: var(--muted); }
.tiles, .grid { display: grid; gap: 16px; list-style: none; margin: 20px 0 0; padding: 0; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tiles li, .card, .verdicts { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; }
.tiles li { padding: 14px 16px; }
.tiles span, .tiles small { display: block; color: var(--muted); font-size: .8125rem; line-height: 1.35; }
.tiles b { font-size: 1.6rem; line-height: 1.3; font-weight: 650; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.verdicts { list-style: none; margin: 16px 0 0; padding: 8px 18px; }
.verdicts li { position: relative; padding: 6px 0 6px 24px; }
.verdicts li::before { content: ""; position: absolute; left: 0; top: 13px; width: 11px; height: 11px; border-radius: 50%; background: var(--mood); }
.good { --mood: var(--good) } .fair { --mood: var(--fair) } .bad { --mood: var(--bad) }
.verdicts b { color: var(--mood); font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin-top: 18px; font-size: .9375rem; }
a { color: var(--accent); text-underline-offset: 3px; }
.grid { grid-template-columns: repeat(6, minmax(0, 1fr)); margin-top: 14px; }
.card { margin: 0; padding: 16px 18px; display: flex; flex-direction: column; min-width: 0; }
.third { grid-column: span 2 } .half { grid-column: span 3 } .two_thirds { grid-column: span 4 } .full { grid-column: span 6 }
figcaption { font-size: .875rem; line-height: 1.45; padding-top: 12px; max-width: 80ch; }
svg { display: block; width: 100%; max-width: 450px; margin: 0 auto; height: auto; overflow: visible; }
svg text { fill: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .middle { text-anchor: middle } svg .end { text-anchor: end }
svg path { fill: none; }
svg .mesh { stroke: var(--mesh); } svg .axis { stroke: var(--axis); }
svg .limit { stroke: var(--bad); stroke-dasharray: 4 3; }
svg .line { stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
svg .points { stroke: var(--c); stroke-width: 4.4; stroke-linecap: round; stroke-opacity: .7; }
svg .dot, svg .bar, svg .cell { fill: var(--c); }
svg .bar:hover, svg .cell:hover { stroke: var(--ink); }
.legend { display: flex; flex-wrap: wrap; justify-content: center; gap: 2px 14px; list-style: none; margin: 8px 0 0; padding: 0; font-size: .8125rem; }
.legend li::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 3px; background: var(--c); margin-right: 6px; }
.scale { display: flex; justify-content: center; gap: 8px; align-items: center; margin: 8px auto 0; color: var(--muted); font-size: .8125rem; }
.scale i { width: 120px; height: 10px; border-radius: 3px; border: 1px solid var(--rule); }
.scale .one { background: linear-gradient(90deg, transparent, var(--c0)); }
.scale .two { background: linear-gradient(90deg, var(--c1), transparent, var(--c0)); }
.strips { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 6px 14px; align-items: center; }
.strips span { color: var(--muted); font-size: .8125rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.strips.single { display: block; }
img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 4px; }
.single img { margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
th, td { text-align: left; vertical-align: top; padding: 5px 0; border-bottom: 1px solid var(--rule); font-weight: 400; }
tr:last-child > * { border-bottom: 0; }
th { color: var(--muted); padding-right: 16px; width: 45%; }
.two_thirds tbody, .full tbody { display: block; columns: 2; column-gap: 36px; }
.two_thirds tr, .full tr { display: flex; break-inside: avoid; } .two_thirds td, .full td { flex: 1; }
td { font-variant-numeric: tabular-nums; }
footer { margin-top: 48px; padding-bottom: 40px; font-size: .875rem; }
@media (max-width: 960px) { .third { grid-column: span 3 } .two_thirds, .two_thirds + .third, .third:last-child:nth-child(odd) { grid-column: span 6 } }
@media (max-width: 640px) {
  header, main, footer { padding-left: 14px; padding-right: 14px; } header { padding-top: 26px; }
  h1 { font-size: 1.6rem; } h2 { margin-top: 40px; } .card { padding: 14px; } .tiles, .grid { gap: 12px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } .tiles b { font-size: 1.4rem; }
  .third, .half, .two_thirds { grid-column: span 6 } .two_thirds tbody, .full tbody { columns: 1; }
  .strips { grid-template-columns: minmax(0, 1fr); gap: 3px; } .strips span { margin-top: 8px; } .strips img { width: 100%; } }
@media print { body { background: #fff; } .card, .tiles li { break-inside: avoid; } }
)css";

}  // namespace report
}  // namespace vaelib::inline VAELIB_ABI
