//! The plots of `plexus sim`, as one SVG: what happened over time, who waited how long, and what decisions cost against the
//! size of the network.

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use sim::{Report, Sample};

use super::watch::Cost;

/// Size of one panel.
const PANEL: (u32, u32) = (640, 360);
const FONT: &str = "system-ui, sans-serif";
const INK: RGBColor = RGBColor(0x1f, 0x29, 0x37);
const MUTED: RGBColor = RGBColor(0x6b, 0x72, 0x80);
const GRID: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);
/// Told apart without red and green as well: Okabe and Ito's palette, darkest first.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
];
/// A waiting time below this is drawn as this: an axis of powers of ten has no zero.
const WAITING_S_MIN: f64 = 0.1;

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// One line of a panel.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Where a panel's axis runs, and in what steps.
#[derive(Clone, Copy, PartialEq)]
enum Axis {
    /// From 0 to this.
    Linear(f64),
    /// By powers of ten.
    Powers(f64, f64),
}

struct Labels<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
}

/// A line's name, and what it shows of each sample.
type Measure = (&'static str, fn(&Sample) -> f64);

/// One run.
pub fn of_run(report: &Report) -> String {
    let title = format!(
        "plexus sim: {} providers, {} minutes of arrivals, seed {}",
        grouped(u64::from(report.providers)),
        report.minutes,
        report.seed
    );
    draw(&title, (2, 3), |panels| {
        let lines: [(Labels<'_>, Vec<Measure>, Option<f64>); 5] = [
            (
                Labels { title: "Throughput", x: "", y: "units a second" },
                vec![("accepted", |s| s.units_per_s)],
                None,
            ),
            (
                Labels { title: "Utilisation", x: "", y: "% of device time online" },
                vec![("at work", |s| s.utilisation * 100.0)],
                Some(100.0),
            ),
            (
                Labels { title: "Queue", x: "", y: "units, providers" },
                vec![
                    ("units that wait", |s| s.waiting_units as f64),
                    ("providers online", |s| s.online as f64),
                ],
                None,
            ),
            (
                Labels { title: "Price", x: "", y: "mTOK a reference second" },
                vec![("paid for accepted work", |s| s.price * 1e3), ("quoted", |s| s.quote * 1e3)],
                None,
            ),
            (
                Labels { title: "Fairness among honest providers", x: "", y: "Jain's index" },
                vec![
                    ("work for time and speed offered", |s| s.fairness_work),
                    ("pay for work", |s| s.fairness_pay),
                ],
                Some(1.0),
            ),
        ];
        for ((labels, measures, most), panel) in lines.into_iter().zip([0, 1, 2, 4, 5]) {
            // Where there was nothing to measure there is no price and no fairness.
            let measured = panel > 3;
            let lines = measures.into_iter().map(|(name, value)| Line {
                name: name.to_owned(),
                points: (report.samples.iter())
                    .map(|s| (s.at_s / 60.0, value(s)))
                    .filter(|(_, y)| y.is_finite() && (*y > 0.0 || !measured))
                    .collect(),
            });
            let lines: Vec<_> = lines.filter(|line| line.points.iter().any(|(_, y)| *y > 0.0)).collect();
            over_time(&panels[panel], &Labels { x: "simulated minutes", ..labels }, &lines, most, report)?;
        }
        waiting(&panels[3], report)
    })
}

/// Time passes from left to right. A grey line stands where jobs and faults stop and what is left is finished.
fn over_time(
    panel: &Panel<'_>,
    labels: &Labels<'_>,
    lines: &[Line],
    most: Option<f64>,
    report: &Report,
) -> Drawn {
    let end = |axis: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|line| &line.points).map(axis).fold(0.0, f64::max)
    };
    let minutes = end(|p| p.0).max(report.samples.last().map_or(1.0, |s| s.at_s / 60.0));
    let most = most.unwrap_or_else(|| round_up(end(|p| p.1)));
    let calm = f64::from(report.minutes);
    let marked = (calm < minutes * 0.99).then_some(calm);
    chart(panel, labels, lines, (Axis::Linear(minutes), Axis::Linear(most)), marked)
}

/// Which share of jobs had their first unit leased within so many seconds.
fn waiting(panel: &Panel<'_>, report: &Report) -> Drawn {
    let lines: Vec<_> = report
        .priorities
        .iter()
        .filter(|class| class.jobs > 0)
        .map(|class| {
            let steps = class.waiting_quantiles_s.len().saturating_sub(1).max(1) as f64;
            let points = class.waiting_quantiles_s.iter().enumerate();
            Line {
                name: format!("{} ({} jobs)", class.name, grouped(class.jobs)),
                points: points.map(|(i, s)| (s.max(WAITING_S_MIN), i as f64 / steps * 100.0)).collect(),
            }
        })
        .collect();
    let longest = lines.iter().flat_map(|line| &line.points).map(|p| p.0).fold(WAITING_S_MIN, f64::max);
    let labels = Labels {
        title: "Waiting by priority",
        x: "seconds until the first lease, 0.1 or less at the left",
        y: "% of jobs",
    };
    let x = Axis::Powers(WAITING_S_MIN, power_above(longest));
    chart(panel, &labels, &lines, (x, Axis::Linear(100.0)), None)
}

/// Runs of several sizes: what a decision costs, and what the whole takes.
pub fn of_sweep(seed: u64, runs: &[(Report, Cost)]) -> String {
    let title = format!("plexus sim: growth with the network, seed {seed}");
    draw(&title, (2, 2), |panels| {
        let mut kinds: Vec<&str> = runs.iter().flat_map(|(_, cost)| cost.kinds()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        // What workers do all the time, and what happens to every job; the rest is rare.
        kinds.retain(|kind| ["commit", "grant", "heartbeat", "lease", "submit", "opinion"].contains(kind));
        let of_kinds = |quantile: f64| -> Vec<Line> {
            let line = |kind: &&str| Line {
                name: (*kind).to_owned(),
                points: runs
                    .iter()
                    .filter_map(|(r, cost)| Some((f64::from(r.providers), cost.quantile_us(kind, quantile)?)))
                    .collect(),
            };
            kinds.iter().map(line).filter(|line| !line.points.is_empty()).collect()
        };
        let sizes = || runs.iter().map(|(r, _)| f64::from(r.providers));
        let x = Axis::Powers(
            power_below(sizes().fold(f64::MAX, f64::min)),
            power_above(sizes().fold(1.0, f64::max)),
        );
        for (panel, title, quantile) in
            [(0, "Cost of a decision, median", 0.5), (1, "Cost of a decision, 99 %", 0.99)]
        {
            let lines = of_kinds(quantile);
            let labels = Labels { title, x: "providers", y: "microseconds" };
            chart(&panels[panel], &labels, &lines, (x, powers_of(&lines)), None)?;
        }
        let line = |name: &str, value: &dyn Fn(&Report, &Cost) -> f64| {
            let points = runs.iter().map(|(r, cost)| (f64::from(r.providers), value(r, cost)));
            vec![Line { name: name.to_owned(), points: points.filter(|(_, y)| *y > 0.0).collect() }]
        };
        let mean = line("all commands", &|_, cost| cost.mean_us());
        let labels = Labels { title: "Cost of a decision, mean", x: "providers", y: "microseconds" };
        chart(&panels[2], &labels, &mean, (x, powers_of(&mean)), None)?;
        let work = line("accepted", &|r, _| r.units_per_s);
        let labels = Labels { title: "Throughput", x: "providers", y: "units a second" };
        chart(&panels[3], &labels, &work, (x, powers_of(&work)), None)
    })
}

fn powers_of(lines: &[Line]) -> Axis {
    let values = || lines.iter().flat_map(|line| &line.points).map(|p| p.1).filter(|y| *y > 0.0);
    Axis::Powers(power_below(values().fold(f64::MAX, f64::min)), power_above(values().fold(0.0, f64::max)))
}

/// Panels below a title.
fn draw(title: &str, (columns, rows): (u32, u32), panels: impl FnOnce(&[Panel<'_>]) -> Drawn) -> String {
    const TITLE: u32 = 56;
    let mut svg = String::new();
    {
        let size = (PANEL.0 * columns, PANEL.1 * rows + TITLE);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let (head, body) = root.split_vertically(TITLE);
        let style = (FONT, 24).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Center));
        // Writing to a string cannot fail.
        let _ = root.fill(&WHITE);
        let _ = head.draw_text(title, &style, (size.0 as i32 / 2, TITLE as i32 / 2 + 4));
        let _ = panels(&body.split_evenly((rows as usize, columns as usize)));
        let _ = root.present();
    }
    svg
}

fn chart(
    panel: &Panel<'_>,
    labels: &Labels<'_>,
    lines: &[Line],
    (x, y): (Axis, Axis),
    marked: Option<f64>,
) -> Drawn {
    // Coordinates are powers where the axis is one of powers, so that one kind of chart does for all.
    let place = |axis: Axis, value: f64| match axis {
        Axis::Linear(_) => value,
        Axis::Powers(least, _) => value.max(least).log10(),
    };
    let range = |axis: Axis| match axis {
        Axis::Linear(most) => 0.0..most,
        Axis::Powers(least, most) => least.log10()..most.log10(),
    };
    let written = |axis: Axis, place: f64| match axis {
        Axis::Linear(_) => short(place),
        // Only whole powers get a label.
        Axis::Powers(..) if (place - place.round()).abs() < 1e-6 => short(10f64.powf(place.round())),
        Axis::Powers(..) => String::new(),
    };
    let ticks = |axis: Axis| match axis {
        Axis::Linear(_) => 6,
        Axis::Powers(least, most) => (most / least).log10().round() as usize + 1,
    };
    let mut builder = ChartBuilder::on(panel);
    let mut chart = builder
        .caption(labels.title, (FONT, 18).into_font().color(&INK))
        .margin(14)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(68)
        .build_cartesian_2d(range(x), range(y))?;
    chart
        .configure_mesh()
        .x_desc(labels.x)
        .y_desc(labels.y)
        .x_labels(ticks(x))
        .y_labels(ticks(y))
        .x_label_formatter(&|place| written(x, *place))
        .y_label_formatter(&|place| written(y, *place))
        .label_style((FONT, 13).into_font().color(&MUTED))
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .axis_style(MUTED)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    if let Some(at) = marked {
        let ends = [(at, range(y).start), (at, range(y).end)];
        chart.draw_series(DashedLineSeries::new(ends, 5, 4, MUTED.stroke_width(1)))?;
        let style = (FONT, 12).into_font().color(&MUTED).pos(Pos::new(HPos::Right, VPos::Top));
        chart.draw_series([Text::new("arrivals end ", (at, range(y).end), style)])?;
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<_> = line.points.iter().map(|(a, b)| (place(x, *a), place(y, *b))).collect();
        // A few points are measurements; many are a course.
        if points.len() <= 8 {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)));
    }
    // A single line is what the axis says.
    if lines.len() > 1 {
        // Where lines of that kind are seldom.
        let corner = match y {
            Axis::Powers(..) => SeriesLabelPosition::UpperLeft,
            Axis::Linear(most) if most == 1.0 || most == 100.0 => SeriesLabelPosition::LowerRight,
            Axis::Linear(_) => SeriesLabelPosition::UpperRight,
        };
        chart
            .configure_series_labels()
            .position(corner)
            .margin(8)
            .legend_area_size(22)
            .label_font((FONT, 13).into_font().color(&INK))
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .draw()?;
    }
    if lines.iter().all(|line| line.points.is_empty()) {
        let (width, height) = panel.dim_in_pixel();
        let style = (FONT, 14).into_font().color(&MUTED).pos(Pos::new(HPos::Center, VPos::Center));
        panel.draw_text("nothing to show", &style, (width as i32 / 2, height as i32 / 2))?;
    }
    Ok(())
}

/// The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten, so that an axis ends at a number.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|end| *end >= value * 0.999_999).unwrap_or(value)
}

fn power_below(value: f64) -> f64 {
    10f64.powf((value * 1.000_001).log10().floor())
}

/// At least one power above the least an axis begins with.
fn power_above(value: f64) -> f64 {
    10f64.powf((value * 0.999_999).max(1e-9).log10().floor() + 1.0)
}

/// A number on an axis.
fn short(value: f64) -> String {
    if value.abs() >= 1e6 {
        format!("{} M", trimmed(value / 1e6))
    } else if value.abs() >= 1e4 {
        format!("{} k", trimmed(value / 1e3))
    } else {
        trimmed(value)
    }
}

fn trimmed(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use sim::Scenario;

    use super::*;

    #[test]
    fn every_panel_has_its_title_its_axes_and_every_sample() {
        let report = sim::run(&Scenario::new(1, 5, 1), &mut ());
        let svg = of_run(&report);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["Throughput", "Utilisation", "Queue", "Waiting by priority", "Price", "Fairness"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("simulated minutes").count(), 5);
        let lines = svg.lines().filter(|line| line.starts_with("<polyline"));
        let longest = lines.map(|line| line.matches(',').count()).max();
        assert!(longest >= Some(report.samples.len()), "{longest:?} of {}", report.samples.len());
    }

    #[test]
    fn a_run_without_jobs_can_be_drawn() {
        assert!(of_run(&Report { minutes: 1, ..Report::default() }).contains("nothing to show"));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let check = |value: f64, end: f64| assert!((round_up(value) - end).abs() < 1e-9 * end, "{value}");
        check(0.0, 1.0);
        check(0.012, 0.015);
        check(7.0, 8.0);
        check(1_000.0, 1_000.0);
        check(1_001.0, 1_500.0);
        assert_eq!((power_below(0.11), power_above(2_000.0)), (0.1, 10_000.0));
        assert_eq!((power_below(100.0), power_above(100_000.0)), (100.0, 100_000.0));
        assert_eq!((short(12_000.0), short(0.25), short(2e6)), ("12 k".into(), "0.25".into(), "2 M".into()));
        assert_eq!(grouped(100_000), "100\u{202f}000");
    }
}
