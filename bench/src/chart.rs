//! The picture: one row a contender, every launch a faint dot, a box from p10 to p90, a mark at the median; log scale.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{Contest, Entry, is_ours};
use crate::shuffle::Random;

const WIDTH: i32 = 1110;
const LEFT: i32 = 200;
const RIGHT: i32 = WIDTH - 190;
const TOP: i32 = 96;
const ROW: i32 = 64;
const BELOW: i32 = 84;

const INK: RGBColor = RGBColor(38, 43, 51);
const FAINT: RGBColor = RGBColor(112, 120, 132);
const GRID: RGBColor = RGBColor(226, 229, 234);
const FLOOR: RGBColor = RGBColor(140, 148, 158);
const OURS: RGBColor = RGBColor(214, 92, 30);
const PEER: RGBColor = RGBColor(52, 105, 168);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes the picture as SVG.
pub fn draw(contest: &Contest, path: &Path) -> Result<()> {
    let rows = i32::try_from(contest.entries.len())?;
    let bottom = TOP + rows * ROW;
    let height = u32::try_from(bottom + BELOW)?;
    let area = SVGBackend::new(path, (WIDTH.cast_unsigned(), height)).into_drawing_area();
    let scale = Scale::of(contest);
    let picture = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        titles(&area, contest)?;
        axis(&area, &scale, bottom)?;
        for (entry, y) in contest.entries.iter().zip((TOP + ROW / 2..).step_by(usize::try_from(ROW)?)) {
            row(&area, &scale, contest, entry, y)?;
        }
        area.present()?;
        Ok(())
    };
    picture().map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

/// Milliseconds to pixels, by their logarithm.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(contest: &Contest) -> Self {
        let low = contest.entries.iter().map(|e| e.summary.min_us).fold(f64::INFINITY, f64::min);
        let high = contest.entries.iter().map(|e| e.summary.max_us).fold(0.0, f64::max);
        Self { low: low / 1000.0 / 1.15, high: high / 1000.0 * 1.15 }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a pixel of a picture a thousand wide")]
    fn x(&self, ms: f64) -> i32 {
        let share = (ms / self.low).ln() / (self.high / self.low).ln();
        LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32
    }

    /// 1, 2 and 5 of every decade in range.
    fn ticks(&self) -> Vec<f64> {
        let decades = (-3..6).map(|exponent| 10f64.powi(exponent));
        let all = decades.flat_map(|decade| [decade, 2.0 * decade, 5.0 * decade]);
        all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn titles<'a>(area: &Area<'a>, contest: &Contest) -> Drawn<'a> {
    let netns = if contest.netns { "with" } else { "without" };
    let run = format!(
        "busybox /bin/true from nothing to cleaned up, {} launches each, interleaved, {netns} network namespace",
        contest.launches
    );
    area.draw(&Text::new("Container launch time", (24, 18), style(22, &INK, HPos::Left, VPos::Top)))?;
    area.draw(&Text::new(run, (24, 48), style(14, &FAINT, HPos::Left, VPos::Top)))?;
    area.draw(&Text::new(contest.machine.line(), (24, 67), style(12, &FAINT, HPos::Left, VPos::Top)))
}

fn axis<'a>(area: &Area<'a>, scale: &Scale, bottom: i32) -> Drawn<'a> {
    for tick in scale.ticks() {
        let x = scale.x(tick);
        area.draw(&PathElement::new([(x, TOP), (x, bottom)], GRID))?;
        area.draw(&Text::new(format!("{tick}"), (x, bottom + 8), style(13, &FAINT, HPos::Center, VPos::Top)))?;
    }
    area.draw(&PathElement::new([(LEFT, bottom), (RIGHT, bottom)], FAINT))?;
    let middle = i32::midpoint(LEFT, RIGHT);
    area.draw(&Text::new(
        "milliseconds, logarithmic",
        (middle, bottom + 30),
        style(13, &FAINT, HPos::Center, VPos::Top),
    ))?;
    area.draw(&Text::new(
        "dot: one launch; box: p10 to p90; bar: median, with its multiple of the floor",
        (middle, bottom + 54),
        style(12, &FAINT, HPos::Center, VPos::Top),
    ))
}

fn row<'a>(area: &Area<'a>, scale: &Scale, contest: &Contest, entry: &Entry, y: i32) -> Drawn<'a> {
    let color = match entry.name.as_str() {
        "floor" => FLOOR,
        name if is_ours(name) => OURS,
        _ => PEER,
    };
    let at = |us: f64| scale.x(us / 1000.0);
    let figures = &entry.summary;
    area.draw(&Text::new(entry.name.clone(), (LEFT - 16, y), style(16, &INK, HPos::Right, VPos::Center)))?;

    let box_corners = [(at(figures.p10_us), y - 12), (at(figures.p90_us), y + 12)];
    area.draw(&Rectangle::new(box_corners, color.mix(0.3).filled()))?;
    // Spread over the row's height so that equal times do not hide each other; always the same way.
    let mut random = Random::new(0);
    for sample in &entry.samples_us {
        let jitter = i32::try_from(random.next() % 35).unwrap_or(0) - 17;
        area.draw(&Circle::new((at(*sample), y + jitter), 2, color.mix(0.35).filled()))?;
    }
    let median = at(figures.median_us);
    area.draw(&Rectangle::new([(median - 2, y - 20), (median + 2, y + 20)], color.filled()))?;

    let value = format!("{:.2} ms", figures.median_us / 1000.0);
    area.draw(&Text::new(value, (RIGHT + 92, y), style(16, &INK, HPos::Right, VPos::Center)))?;
    let times = contest.times_floor(entry).map_or_else(String::new, |times| format!("{times:.1}x"));
    area.draw(&Text::new(times, (RIGHT + 164, y), style(14, &FAINT, HPos::Right, VPos::Center)))
}

fn style(size: u32, color: &'static RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font()).color(color).pos(Pos::new(horizontal, vertical))
}
