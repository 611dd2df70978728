//! Loss and world size over time as an SVG file.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::record::Record;
use super::script::Script;

const SIZE: (u32, u32) = (960, 600);
const LOSS_HEIGHT: u32 = 400;
const MEAN: RGBColor = RGBColor(20, 20, 20);
const WORLD: RGBColor = RGBColor(31, 119, 180);
const KILL: RGBColor = RGBColor(200, 30, 30);
const JOIN: RGBColor = RGBColor(30, 140, 60);
/// Lines of the workers, in turn.
const WORKERS: [RGBColor; 6] = [
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the run into the file, replacing what was there.
pub(super) fn draw(path: &Path, record: &Record, script: &Script) -> Result<(), Box<dyn Error>> {
    let end = record
        .steps
        .iter()
        .map(|seen| seen.time)
        .fold(1.0, f64::max)
        * 1.02;
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (top, bottom) = root.split_vertically(LOSS_HEIGHT);
    draw_loss(&top, record, script, end)?;
    draw_world(&bottom, record, end)?;
    root.present()?;
    Ok(())
}

fn draw_loss(
    area: &Area<'_>,
    record: &Record,
    script: &Script,
    end: f64,
) -> Result<(), Box<dyn Error>> {
    // The loss falls by orders of magnitude.
    let floor = record
        .steps
        .iter()
        .map(|seen| seen.loss)
        .fold(1.0, f32::min)
        .max(1e-6)
        * 0.7;
    let ceiling = record
        .steps
        .iter()
        .map(|seen| seen.loss)
        .fold(1.0, f32::max)
        * 1.5;
    let mut chart = ChartBuilder::on(area)
        .caption(
            "pccl demo: training loss, one line per worker",
            ("sans-serif", 20),
        )
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, (floor..ceiling).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .y_desc("loss (log)")
        .y_label_formatter(&|loss| format!("{loss:.0e}"))
        .draw()?;
    for worker in 0..=script.newcomer {
        let seen = record.steps.iter().filter(|seen| seen.worker == worker);
        let points = seen.map(|seen| (seen.time, seen.loss.max(floor)));
        chart.draw_series(LineSeries::new(
            points,
            WORKERS[worker % WORKERS.len()].stroke_width(1),
        ))?;
    }
    let mean = record
        .mean_loss()
        .into_iter()
        .map(|(time, loss)| (time, loss.max(floor)));
    chart
        .draw_series(LineSeries::new(mean, MEAN.stroke_width(2)))?
        .label("mean")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], MEAN.stroke_width(2)));
    for (time, text, color) in moments(record) {
        let line = LineSeries::new([(time, floor), (time, ceiling)], color.stroke_width(2));
        chart
            .draw_series(line)?
            .label(text)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .position(SeriesLabelPosition::UpperRight)
        .draw()?;
    Ok(())
}

fn draw_world(area: &Area<'_>, record: &Record, end: f64) -> Result<(), Box<dyn Error>> {
    let top = record
        .steps
        .iter()
        .map(|seen| seen.world)
        .max()
        .unwrap_or(1);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..f64::from(top) + 0.5)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .y_labels(top as usize + 1)
        .y_label_formatter(&|world| format!("{world:.0}"))
        .x_desc("seconds")
        .y_desc("world size")
        .draw()?;
    chart.draw_series(LineSeries::new(stairs(record), WORLD.stroke_width(3)))?;
    for (time, _, color) in moments(record) {
        let line = [(time, 0.0), (time, f64::from(top) + 0.5)];
        chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
    }
    Ok(())
}

/// When something happened to the membership, and what.
fn moments(record: &Record) -> Vec<(f64, String, RGBColor)> {
    let killed = record
        .killed
        .map(|(time, _)| (time, format!("SIGKILL at {time:.2} s"), KILL));
    let joined = record
        .joined
        .map(|time| (time, format!("newcomer in at {time:.2} s"), JOIN));
    let master = record
        .master_killed
        .map(|time| (time, format!("master killed at {time:.2} s"), KILL));
    let all = killed.into_iter().chain(joined).chain(master);
    all.collect()
}

/// World size over time, as steps.
fn stairs(record: &Record) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for seen in &record.steps {
        let world = f64::from(seen.world);
        let before = points.last().map_or(world, |point| point.1);
        let start = if points.is_empty() { 0.0 } else { seen.time };
        points.extend([(start, before), (seen.time, world)]);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::record::tests::played;

    #[test]
    fn the_chart_shows_loss_world_size_kill_and_join() {
        let (script, record) = played();
        let path = std::env::temp_dir().join(format!("pccl-chart-{}.svg", std::process::id()));
        draw(&path, &record, &script).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for text in [
            "<svg",
            "loss",
            "world size",
            "SIGKILL at 3.10 s",
            "newcomer in at 5.90 s",
        ] {
            assert!(svg.contains(text), "no {text:?}");
        }
    }

    #[test]
    fn an_empty_run_draws_without_an_error() {
        let path = std::env::temp_dir().join(format!("pccl-empty-{}.svg", std::process::id()));
        draw(&path, &Record::default(), &Script::new(3, 6)).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
