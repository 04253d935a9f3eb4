//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::scenario::Shape;

pub(crate) const USAGE: &str = "\
How much goodput a resilience stack keeps while things break.

  --scenario S      one of S0 S1 S2 S2b S3 S4 S5 S5c S6 S7 S7b S8 S9 S10 (all)
  --candidate C     those whose name contains C, =C the one that is called so; none and the oracle always run (all)
  --seeds N         runs of each cell (5)
  --clients N  --workers N  --service-ms X  --sigma X  --deadline-ms X  --utilisation X  --burstiness X
                    the shape (A: 10, 50, 50, 0.6, 1000, 0.7, 1)
  --fail-beyond X   servers that answer with errors what comes when they hold X requests for each of their workers
  --random-shapes N also N shapes drawn at random: mean, tenth percentile and worst of each candidate
  --first-shape N   the first of them (0)
  --shape-seeds N   runs of each of their cells (1)
  --timeline S      one scenario or collapse (S1-spike S2-ramp H1-link) second by second, of the first candidate that
                    --candidate names, with changes of state one by one and other decisions as numbers
  --events          with every decision one by one
  --healthy N       S0 until N requests have arrived: what the first candidate that --candidate names refuses of them
  --csv DIR         scores.csv and seconds.csv, collapses.csv with the collapses
  --svg DIR         scores.svg and one chart for each scenario and collapse
  --no-collapse     without the spike, the ramp and the dead link
  --threads N       (2)
  --smoke           a short run that fails if a score leaves its range
";

pub(crate) struct Args {
    pub(crate) scenario: Option<String>,
    pub(crate) candidate: Option<String>,
    pub(crate) seeds: u64,
    pub(crate) shape: Shape,
    pub(crate) random_shapes: u64,
    pub(crate) first_shape: u64,
    pub(crate) shape_seeds: u64,
    pub(crate) timeline: Option<String>,
    pub(crate) events: bool,
    pub(crate) healthy: Option<u64>,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) collapse: bool,
    pub(crate) threads: usize,
    pub(crate) smoke: bool,
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            scenario: None,
            candidate: None,
            seeds: 5,
            shape: Shape::a(),
            random_shapes: 0,
            first_shape: 0,
            shape_seeds: 1,
            timeline: None,
            events: false,
            healthy: None,
            csv: None,
            svg: None,
            collapse: true,
            threads: 2,
            smoke: false,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--smoke" => args.smoke = true,
                "--events" => args.events = true,
                "--no-collapse" => args.collapse = false,
                "--help" | "-h" => return Err(USAGE.to_owned()),
                _ => {
                    let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
                    args.option(&word, value)?;
                }
            }
        }
        Ok(args)
    }

    fn option(&mut self, word: &str, value: String) -> Result<(), String> {
        let number = |least: f64, most: f64| {
            value
                .parse::<f64>()
                .ok()
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| format!("{word}: {value:?} is not a number from {least} to {most}"))
        };
        let millis = |millis: f64| Duration::from_secs_f64(millis / 1000.0);
        match word {
            "--scenario" => self.scenario = Some(value),
            "--candidate" => self.candidate = Some(value),
            "--timeline" => self.timeline = Some(value),
            "--healthy" => self.healthy = Some(number(1.0, 1e9)? as u64),
            "--csv" => self.csv = Some(value.into()),
            "--svg" => self.svg = Some(value.into()),
            "--seeds" => self.seeds = number(1.0, 1000.0)? as u64,
            "--threads" => self.threads = number(1.0, 256.0)? as usize,
            "--random-shapes" => self.random_shapes = number(0.0, 1000.0)? as u64,
            "--first-shape" => self.first_shape = number(0.0, 1e9)? as u64,
            "--shape-seeds" => self.shape_seeds = number(1.0, 1000.0)? as u64,
            "--clients" => self.shape.clients = number(1.0, 10_000.0)? as usize,
            "--workers" => self.shape.workers = number(5.0, 10_000.0)? as usize,
            "--service-ms" => self.shape.service = millis(number(1.0, 10_000.0)?),
            "--sigma" => self.shape.sigma = number(0.0, 3.0)?,
            "--deadline-ms" => self.shape.deadline = millis(number(2.0, 60_000.0)?),
            "--utilisation" => self.shape.utilisation = number(0.01, 2.0)?,
            "--fail-beyond" => self.shape.fail_beyond = Some(number(1.0, 1000.0)?),
            "--burstiness" => self.shape.burstiness = number(1.0, 1000.0)?,
            _ => return Err(format!("unknown option {word}\n\n{USAGE}")),
        }
        Ok(())
    }
}
