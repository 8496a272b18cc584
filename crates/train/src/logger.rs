//! The training loss and its terms, averaged.

use crate::record::{Event, Sink};
use heldout_core::{Clock, Error, Evaluation, Flow, Observer, Persist, Result, State, Update};
use std::collections::BTreeMap;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Reports means over every `every` steps, of the values that are finite: a step that is skipped is in none. Sums stay on the
/// device until then.
#[derive(Debug)]
pub struct TrainLogger {
    /// How often, in steps.
    pub every: u64,
    /// Where it goes.
    pub sink: Rc<dyn Sink>,
    /// Of each term the sum and the number of what was finite.
    sums: BTreeMap<String, Tensor>,
    skipped: u64,
}

impl TrainLogger {
    /// Every `every` steps to `sink`.
    pub fn new(every: u64, sink: Rc<dyn Sink>) -> Self {
        Self { every, sink, sums: BTreeMap::new(), skipped: 0 }
    }

    fn report(&mut self, done: u64, evaluation: &Evaluation) -> Result<()> {
        let value = |t: &Tensor| t.double_value(&[]);
        let last =
            |name: &str| evaluation.terms.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, t)| value(t));
        let skipped = last("skipped") as u64;
        let mean = |sum: &Tensor| {
            let count = sum.double_value(&[1]);
            (count > 0.0).then(|| sum.double_value(&[0]) / count)
        };
        let mut terms: BTreeMap<String, f64> =
            self.sums.iter().filter_map(|(n, sum)| Some((n.clone(), mean(sum)?))).collect();
        if skipped > self.skipped {
            let message = format!(
                "{} steps skipped for a loss or gradient that was not finite",
                skipped - self.skipped
            );
            self.sink.write(done, Event::Note { message })?;
        }
        self.skipped = skipped;
        self.sums = BTreeMap::new();
        let Some(loss) = terms.remove("loss") else { return Ok(()) }; // all were skipped
        self.sink.write(done, Event::Train { loss, terms, learning_rate: last("learning_rate"), skipped })
    }
}

impl Persist for TrainLogger {
    fn state(&self) -> State {
        let mut state = State::default();
        state.tensors.extend(self.sums.iter().map(|(n, t)| (format!("sum/{n}"), t.copy())));
        state.set_count("skipped", self.skipped);
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.skipped = state.count("skipped")?;
        self.sums = state.unnest("sum").tensors;
        match self.sums.iter().find(|(_, sum)| sum.size() != [2]) {
            Some((name, _)) => Err(Error::config(format!("sum/{name}"), "is no sum with its number")),
            None => Ok(()),
        }
    }
}

impl Observer for TrainLogger {
    fn name(&self) -> &'static str {
        "log"
    }

    fn after_step(&mut self, clock: Clock, evaluation: &Evaluation, _: &dyn Update) -> Result<Flow> {
        let means = evaluation.terms.iter().filter(|(n, _)| !["learning_rate", "skipped"].contains(n));
        let loss = ("loss", evaluation.loss.detach());
        for (name, value) in means.map(|(n, t)| (*n, t.detach())).chain([loss]) {
            let value = value.to_kind(Kind::Double);
            let finite = value.isfinite().to_kind(Kind::Double);
            let counted = Tensor::stack(&[value.nan_to_num(0.0, 0.0, 0.0), finite], 0);
            self.sums.entry(name.to_owned()).and_modify(|sum| *sum = &*sum + &counted).or_insert(counted);
        }
        let done = clock.step + 1;
        if done.is_multiple_of(self.every) || done == clock.total {
            self.report(done, evaluation)?;
        }
        Ok(Flow::Continue)
    }
}
