//! What a person sees while it runs.

use crate::machine::peak_rss_bytes;
use anyhow::Context;
use heldout_core::{Clock, Evaluation, Flow, Observer, Persist, Result, State, Update};
use heldout_train::{Event, Loaded, Sink, Training};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What the process of one arm tells the process that a person looks at, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// Something that stays on the screen.
    Say(String),
    /// How far an arm is; a bar says as much.
    Reached(String),
    /// What goes on now.
    Phase(String),
    /// Steps that were made, and the largest memory of the process so far, in bytes.
    Steps { n: u64, peak_rss_bytes: u64 },
    /// Steps that need not be made.
    Skip(u64),
    /// Why it ended without a result.
    Failed(Failure),
}

/// Why an arm has no result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// In a sentence.
    pub reason: String,
    /// Whether the loss stopped being a number: it would again.
    pub diverged: bool,
}

/// Time between two messages about steps.
const PAUSE: Duration = Duration::from_millis(100);

/// Shows progress, or tells it to the process that shows it.
#[derive(Debug, Clone)]
pub(crate) enum Bar {
    /// Over all steps of all arms; without a terminal, a line every tenth of an arm.
    Shown { bar: ProgressBar, terminal: bool },
    /// On the standard output of a worker.
    Told(Rc<Told>),
}

/// Steps that were not told yet.
#[derive(Debug)]
pub(crate) struct Told {
    pending: Cell<u64>,
    last: Cell<Instant>,
}

impl Bar {
    pub(crate) fn new(steps: u64) -> Self {
        let style = "{msg:24} {bar:32} {pos}/{len} steps  {elapsed} elapsed, {eta} to go";
        let bar = ProgressBar::new(steps);
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Shown { bar, terminal: std::io::stderr().is_terminal() }
    }

    /// Of a worker.
    pub(crate) fn told() -> Self {
        Self::Told(Rc::new(Told { pending: Cell::new(0), last: Cell::new(Instant::now()) }))
    }

    pub(crate) fn apply(&self, message: Message) {
        match (self, message) {
            (Self::Told(_), message) => tell(&message),
            (Self::Shown { bar, terminal: true }, Message::Say(text)) => bar.println(text),
            (Self::Shown { terminal: false, .. }, Message::Say(text) | Message::Reached(text)) => {
                eprintln!("{text}");
            }
            (Self::Shown { bar, .. }, Message::Phase(text)) => {
                bar.set_message(text);
                bar.tick();
            }
            (Self::Shown { bar, .. }, Message::Steps { n, .. }) => bar.inc(n),
            (Self::Shown { bar, .. }, Message::Skip(n)) => {
                bar.inc(n);
                bar.reset_eta();
            }
            (Self::Shown { .. }, Message::Reached(_) | Message::Failed(_)) => {}
        }
    }

    /// Says something above the bar.
    pub(crate) fn say(&self, text: &str) {
        self.apply(Message::Say(text.to_owned()));
    }

    /// What is going on now.
    pub(crate) fn phase(&self, text: &str) {
        self.apply(Message::Phase(text.to_owned()));
    }

    /// Steps that need not run: done before a resume, or cut by early stopping.
    pub(crate) fn skip(&self, steps: u64) {
        self.apply(Message::Skip(steps));
    }

    fn step(&self) {
        match self {
            Self::Shown { bar, .. } => bar.inc(1),
            Self::Told(told) => {
                told.pending.set(told.pending.get() + 1);
                if told.last.get().elapsed() >= PAUSE {
                    self.flush();
                }
            }
        }
    }

    fn flush(&self) {
        if let Self::Told(told) = self {
            let n = told.pending.replace(0);
            told.last.set(Instant::now());
            tell(&Message::Steps { n, peak_rss_bytes: peak_rss_bytes() });
        }
    }

    pub(crate) fn finish(&self) {
        match self {
            Self::Shown { bar, .. } => bar.finish_and_clear(),
            Self::Told(_) => self.flush(),
        }
    }
}

/// A process that nobody listens to any more goes on to its next chance to stop.
fn tell(message: &Message) {
    let line = serde_json::to_string(message).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{line}");
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
        self.bar.step();
        if done.is_multiple_of((clock.total / 10).max(1)) || done == clock.total {
            let (loss, seconds) = (evaluation.loss.double_value(&[]), self.seconds());
            let text =
                format!("{}: step {done} of {}, loss {loss:.4}, {seconds:.0} s", self.name, clock.total);
            self.bar.apply(Message::Reached(text));
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
