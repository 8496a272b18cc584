//! What a person sees while it runs.

use anyhow::Context;
use heldout_core::{Clock, Evaluation, Flow, Observer, Persist, Result, State, Update};
use heldout_train::{Event, Loaded, Sink, Training};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;

/// A bar over all steps of all arms; without a terminal, a line every tenth of an arm.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    bar: ProgressBar,
    terminal: bool,
}

impl Bar {
    pub(crate) fn new(steps: u64) -> Self {
        let style = "{msg:24} {bar:32} {pos}/{len} steps  {elapsed} elapsed, {eta} to go";
        let bar = ProgressBar::new(steps);
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, terminal: std::io::stderr().is_terminal() }
    }

    /// Says something above the bar.
    pub(crate) fn say(&self, text: &str) {
        if self.terminal { self.bar.println(text) } else { eprintln!("{text}") }
    }

    /// What is going on now.
    pub(crate) fn phase(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.bar.tick();
    }

    /// Steps that need not run: done before a resume, or cut by early stopping.
    pub(crate) fn skip(&self, steps: u64) {
        self.bar.inc(steps);
        self.bar.reset_eta();
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Moves the bar and measures time, which goes on where a resumed run was cut.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) bar: Bar,
    pub(crate) name: String,
    started: Instant,
    before: f64,
}

impl Progress {
    pub(crate) fn new(bar: Bar, name: String) -> Self {
        Self { bar, name, started: Instant::now(), before: 0.0 }
    }

    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }
}

impl Persist for Progress {
    fn state(&self) -> State {
        let mut state = State::default();
        state.values.insert("seconds".to_owned(), self.seconds().into());
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.before = state.values.remove("seconds").and_then(|v| v.as_f64()).unwrap_or(0.0);
        self.started = Instant::now();
        Ok(())
    }
}

impl Observer for Progress {
    fn name(&self) -> &'static str {
        "progress"
    }

    fn after_step(&mut self, clock: Clock, evaluation: &Evaluation, _: &dyn Update) -> Result<Flow> {
        let done = clock.step + 1;
        self.bar.bar.inc(1);
        if !self.bar.terminal && (done.is_multiple_of((clock.total / 10).max(1)) || done == clock.total) {
            let loss = evaluation.loss.double_value(&[]);
            eprintln!(
                "{}: step {done} of {}, loss {loss:.4}, {:.0} s",
                self.name,
                clock.total,
                self.seconds()
            );
        }
        Ok(Flow::Continue)
    }
}

/// Brings a training to its newest checkpoint, if it has one, and says so; damaged ones that were passed over are notes.
pub(crate) fn go_on(
    training: &mut Training<'_>,
    loaded: Option<Loaded>,
    sink: &dyn Sink,
    bar: &Bar,
    name: &str,
) -> anyhow::Result<()> {
    let Some(loaded) = loaded else { return Ok(()) };
    for damage in loaded.damaged {
        let message = format!("passed over a damaged checkpoint: {damage}");
        bar.say(&message);
        sink.write(loaded.step, Event::Note { message })?;
    }
    bar.say(&format!("{name}: resumed after step {}", loaded.step));
    training.load_state(loaded.state).context("checkpoint")?;
    bar.skip(loaded.step);
    Ok(())
}

/// Seconds of a whole run, from its [`Progress`].
pub(crate) fn seconds_of(observers: &[Box<dyn Observer>]) -> f64 {
    let state = observers.iter().find(|o| o.name() == "progress").map(|o| o.state());
    state.and_then(|s| s.values.get("seconds").and_then(|v| v.as_f64())).unwrap_or(0.0)
}
