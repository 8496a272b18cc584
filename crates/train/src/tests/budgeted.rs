//! A budget of time.

use super::{Memory, parts};
use crate::{Budgeted, Event};
use heldout_core::{Clock, Evaluation, Flow, Observer, Persist, Result, Update};
use std::cell::Cell;
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tch::Tensor;

/// Looks after every step, and takes four milliseconds.
#[derive(Debug)]
struct Slow(Rc<Cell<u32>>);

impl Persist for Slow {}

impl Observer for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn after_step(&mut self, _: Clock, _: &Evaluation, _: &dyn Update) -> Result<Flow> {
        self.0.set(self.0.get() + 1);
        sleep(Duration::from_millis(4));
        Ok(Flow::Continue)
    }
}

#[test]
fn a_budget_keeps_an_observer_within_its_share() {
    let (looks, memory) = (Rc::new(Cell::new(0)), Rc::new(Memory::default()));
    let mut watch = Budgeted::new(Slow(looks.clone()), 0.2, memory.clone()).unwrap();
    let (update, _) = parts();
    let evaluation = Evaluation { loss: Tensor::from(0.0), rows: None, terms: Vec::new() };
    let begun = Instant::now();
    for step in 0..200 {
        sleep(Duration::from_millis(1));
        watch.after_step(Clock { step, total: 200 }, &evaluation, &update).unwrap();
    }
    // A look takes at least four milliseconds, so that this bounds their share but for what the first takes.
    let most = 0.2 * begun.elapsed().as_secs_f64() / 0.004 + 1.0;
    assert!((2..=most as u32).contains(&looks.get()), "{} looks, at most {most}", looks.get());
    let said = memory.0.borrow();
    let [(200, Event::Note { message })] = &said[..] else { panic!("{said:?}") };
    assert!(message.starts_with("slow took") && message.contains("of 20.0 %"), "{message}");
}

#[test]
fn a_budget_is_a_share() {
    for share in [0.0, 1.0, -0.1, f64::NAN] {
        let error = Budgeted::new(Slow(Rc::default()), share, Rc::new(Memory::default())).unwrap_err();
        assert!(error.to_string().starts_with("budget"), "{error}");
    }
}
