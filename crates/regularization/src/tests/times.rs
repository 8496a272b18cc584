//! Curricula and jitter of the noise level.

use crate::{Curriculum, CurriculumConfig, HeldOutLoss, LevelJitter, Order, Pace, TimesTechnique};
use heldout_core::{Clock, NoiseSchedule, Persist, Result, State, TimeSampler, Times};
use heldout_testkit::{TrigSchedule, check_absent_times, check_persist, check_time_sampler, close};
use serde_json::{Value, from_value, json};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const TOTAL: u64 = 1000;

/// Uniform times, whose weights tell where they came from, and what was observed.
#[derive(Debug, Default)]
struct Uniform(u64);
impl Persist for Uniform {
    fn state(&self) -> State {
        let mut state = State::default();
        state.set_count("observed", self.0);
        state
    }
    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.0 = state.count("observed")?;
        Ok(())
    }
}
impl TimeSampler for Uniform {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let t = Tensor::rand([n], (Kind::Double, device));
        Times { weight: &t + 1.0, t }
    }
    fn observe(&mut self, _: &Tensor, _: &Tensor) {
        self.0 += 1;
    }
}

fn schedule() -> Rc<dyn NoiseSchedule> {
    Rc::new(TrigSchedule)
}

fn config(pace: Value, order: &str, anti: bool) -> CurriculumConfig {
    let edges = [-2.0, 0.0, 2.0];
    from_value(json!({"stages": 4, "edges": edges, "order": order, "anti": anti, "pace": pace})).unwrap()
}

fn share(order: &str, anti: bool) -> Curriculum<Uniform> {
    let config = config(json!({"kind": "share", "until": 0.6}), order, anti);
    Curriculum::new(&config, Uniform::default(), &TrigSchedule, None).unwrap()
}

fn draw(sampler: &mut dyn TimeSampler, step: u64, n: i64) -> Times {
    sampler.sample(n, Clock { step, total: TOTAL }, Device::Cpu)
}

/// Steps at which the stage changes, and the stages.
fn switches(curriculum: &mut Curriculum<Uniform>, mut loss: impl FnMut(u64) -> f64) -> Vec<(u64, usize)> {
    let mut found = vec![(0, 0)];
    for step in 0..TOTAL {
        tch::manual_seed(step as i64);
        let times = draw(curriculum, step, 2);
        if curriculum.stage() != found[found.len() - 1].1 {
            found.push((step, curriculum.stage()));
        }
        curriculum.observe(&times.t, &Tensor::from_slice(&[loss(step) as f32; 2]));
    }
    found
}

#[test]
fn time_techniques_keep_the_laws() {
    for order in ["low_to_high", "high_to_low"] {
        check_time_sampler(&mut share(order, false));
    }
    let jitter = |std: f64| LevelJitter { inner: Uniform::default(), std, schedule: schedule() };
    check_time_sampler(&mut jitter(0.5));
    check_absent_times(&mut jitter(0.0), &mut Uniform::default());
    for pace in [
        json!({"kind": "share", "until": 0.6}),
        json!({"kind": "held_out", "every": 1, "patience": 1, "latest": 0.5}),
    ] {
        let config: TimesTechnique =
            from_value(json!({"kind": "curriculum", "stages": 1, "pace": pace})).unwrap();
        let mut one = config.wrap(Box::new(Uniform::default()), &schedule(), None).unwrap();
        check_absent_times(&mut one, &mut Uniform::default());
    }
    let mut full = share("low_to_high", false);
    draw(&mut full, 700, 1);
    check_absent_times(&mut full, &mut Uniform::default());
}

/// Stages begin at 0, 20, 40 and 60 % of the run, each with one range more, from either end; `anti` is the other order.
#[test]
fn ranges_accumulate_from_either_end() {
    for (order, anti, from_data) in [
        ("low_to_high", false, true),
        ("high_to_low", false, false),
        ("low_to_high", true, false),
        ("high_to_low", true, true),
    ] {
        let mut curriculum = share(order, anti);
        assert_eq!(switches(&mut curriculum, |_| 1.0), [(0, 0), (200, 1), (400, 2), (600, 3)]);
        for (step, edge) in [(0, 0), (199, 0), (200, 1), (399, 1), (400, 2), (599, 2), (600, 3), (999, 3)] {
            let mut curriculum = share(order, anti);
            let times = draw(&mut curriculum, step, 4000);
            assert_eq!(times.t.size(), [4000]);
            let level = TrigSchedule.log_snr(&times.t);
            let (low, high) = (level.min().double_value(&[]), level.max().double_value(&[]));
            let (near, wanted) = if from_data {
                (low, [2.0, 0.0, -2.0, -12.0][edge])
            } else {
                (high, [-2.0, 0.0, 2.0, 12.0][edge])
            };
            if edge < 3 {
                assert!((near - wanted).abs() < 0.05, "{order} {anti} {step}: {near}, wanted {wanted}");
                assert!(if from_data { near >= wanted } else { near <= wanted });
            }
            let far = if from_data { high > 6.0 } else { low < -6.0 };
            assert!(
                far && (edge < 3 || (low < -6.0 && high > 6.0)),
                "{order} {anti} {step}: {low} to {high}"
            );
        }
    }
}

/// What is kept comes with its own weight, and a range that is hardly ever drawn is filled all the same.
#[test]
fn a_stage_is_the_inner_sampler_within_its_range() {
    let mut curriculum = share("low_to_high", false);
    tch::manual_seed(1);
    let times = draw(&mut curriculum, 0, 3000);
    close(&times.weight, &(&times.t + 1.0), 0.0);
    let end = TrigSchedule.time_of(&Tensor::from_slice(&[2.0])).double_value(&[0]);
    let mean = times.t.mean(Kind::Double).double_value(&[]);
    assert!((mean / end - 0.5).abs() < 0.02, "uniform within: {mean} of {end}");

    let narrow: CurriculumConfig =
        from_value(json!({"stages": 2, "edges": [11.9], "order": "low_to_high"})).unwrap();
    let mut narrow = Curriculum::new(&narrow, Uniform::default(), &TrigSchedule, None).unwrap();
    let times = draw(&mut narrow, 0, 64);
    let level = TrigSchedule.log_snr(&times.t).min().double_value(&[]);
    assert!(times.t.size() == [64] && level >= 11.9 - 1e-6, "{level}");
    let spread = times.t.std(true) / times.t.mean(Kind::Double);
    assert!(spread.double_value(&[]) > 0.3, "moved there by a line, not to a point");
}

#[test]
fn equal_widths_lie_between_the_ends() {
    let config: CurriculumConfig = from_value(json!({"stages": 3, "order": "high_to_low"})).unwrap();
    assert_eq!((config.order, config.pace), (Order::HighToLow, Pace::Share { until: 0.6 }));
    let mut curriculum = Curriculum::new(&config, Uniform::default(), &TrigSchedule, None).unwrap();
    let high = TrigSchedule.log_snr(&draw(&mut curriculum, 0, 4000).t).max().double_value(&[]);
    assert!((-4.2..=-4.0).contains(&high), "a third of -12 to 12: {high}");
}

/// The loss falls until step 100 and then stands still: 50 steps later comes the next stage, and so on.
#[test]
fn a_plateau_begins_the_next_stage() {
    let pace =
        json!({"kind": "plateau", "patience": 50, "smoothing": 0.0, "improvement": 0.01, "latest": 0.9});
    let make = |pace: &Value| {
        Curriculum::new(&config(pace.clone(), "low_to_high", false), Uniform::default(), &TrigSchedule, None)
            .unwrap()
    };
    let loss = |step: u64| if step < 100 { 100.0 - 0.9 * step as f64 } else { 10.0 };
    // Step 98 (11.8) and 99 (10.9) are improvements by more than 1 %, 100 (10.0) is the last; the first of the next stage is
    // always one.
    assert_eq!(switches(&mut make(&pace), loss), [(0, 0), (151, 1), (202, 2), (253, 3)]);
    // 50 steps that bring half a percent together are a plateau, though every one of them is lower.
    assert_eq!(switches(&mut make(&pace), |step| 0.9999f64.powi(step as i32))[1], (51, 1));
    // What falls all the time is cut at equal parts of the latest share.
    assert_eq!(
        switches(&mut make(&pace), |step| 0.98f64.powi(step as i32)),
        [(0, 0), (300, 1), (600, 2), (900, 3)]
    );
    // A noisy loss that stands still does not look like an improvement, and one that falls does.
    let smooth =
        json!({"kind": "plateau", "patience": 50, "smoothing": 0.95, "improvement": 0.01, "latest": 0.9});
    let noise = |step: u64| if step.is_multiple_of(2) { 1.5 } else { 0.5 };
    let found = switches(&mut make(&smooth), noise);
    assert!(found[1].0 < 150 && found[3].0 < 450, "{found:?}");
    let found = switches(&mut make(&smooth), |step| noise(step) * 0.99f64.powi(step as i32));
    assert_eq!(found[1].0, 300, "{found:?}");
}

fn held_out(script: impl Fn(usize, &[f64]) -> f64 + 'static) -> Curriculum<Uniform> {
    let pace = json!({"kind": "held_out", "every": 10, "patience": 2, "latest": 0.9});
    let looks = Cell::new(0);
    let closure = HeldOutLoss(Box::new(move |levels| {
        looks.set(looks.get() + 1);
        tch::manual_seed(5); // as a validation does
        script(looks.get(), levels)
    }));
    let config = config(pace, "high_to_low", false);
    Curriculum::new(&config, Uniform::default(), &TrigSchedule, Some(closure)).unwrap()
}

/// Looks at 10, 20, ..; the third and fourth bring nothing. The levels are those of the stage.
#[test]
fn a_stage_stops_early_on_its_held_out_loss() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let note = seen.clone();
    let mut curriculum = held_out(move |look, levels| {
        note.borrow_mut().push(levels.to_vec());
        [9.0, 8.0, 8.0, 8.5, 3.0, 2.0, 1.0, 1.5, 1.0, 7.0, 8.0, 9.0][look - 1]
    });
    assert_eq!(switches(&mut curriculum, |_| 1.0), [(0, 0), (40, 1), (90, 2), (120, 3)]);
    let seen = seen.borrow();
    assert_eq!(seen.len(), 12, "nobody looks at the full range");
    assert_eq!(seen[0], [-9.5, -4.5]);
    assert_eq!(seen[4], [-9.5, -4.5, -1.5, -0.5]);
    assert_eq!(seen[11], [-9.5, -4.5, -1.5, -0.5, 0.5, 1.5]);
}

/// What a look does to the generator does not reach the run: draws after it differ by the seed.
#[test]
fn a_look_leaves_draws_that_are_a_function_of_the_seed() {
    let after = |seed: i64, step: u64| {
        let mut curriculum = held_out(|_, _| 1.0);
        draw(&mut curriculum, 0, 2);
        tch::manual_seed(seed);
        draw(&mut curriculum, step, 8).t
    };
    assert!(after(1, 10).equal(&after(1, 10)));
    assert!(!after(1, 10).equal(&after(2, 10)), "every look leaves the seed of the validation behind");
}

/// Cut anywhere and continued by a fresh one, a run has the same times.
#[test]
fn a_curriculum_continues() {
    type Make = Box<dyn Fn() -> Curriculum<Uniform>>;
    let plateau =
        json!({"kind": "plateau", "patience": 7, "smoothing": 0.5, "improvement": 0.01, "latest": 0.9});
    let config = config(plateau, "low_to_high", false);
    let makes: [Make; 3] = [
        Box::new(|| share("low_to_high", false)),
        Box::new(move || Curriculum::new(&config, Uniform::default(), &TrigSchedule, None).unwrap()),
        Box::new(|| held_out(|_, levels| levels.len() as f64)),
    ];
    for make in makes {
        let run = |curriculum: &mut Curriculum<Uniform>, steps: std::ops::Range<u64>| {
            let one = |step: u64| {
                tch::manual_seed(step as i64);
                let times = draw(curriculum, step, 4);
                curriculum.observe(&times.t, &(&times.t + 1.0));
                times.t
            };
            steps.map(one).collect::<Vec<_>>()
        };
        let whole = run(&mut make(), 0..120);
        for cut in [1, 13, 30, 77] {
            let mut first = make();
            run(&mut first, 0..cut);
            let mut second = make();
            check_persist(&first, &mut second);
            let rest = run(&mut second, cut..120);
            assert!(rest.iter().zip(&whole[cut as usize..]).all(|(a, b)| a.equal(b)), "cut at {cut}");
        }
    }
    let mut state = share("low_to_high", false).state();
    state.set_count("stage", 4);
    assert!(
        share("low_to_high", false).load_state(state).unwrap_err().to_string().contains("4 is not one of 4")
    );
}

/// Whatever the pace, the last step trains all levels.
#[test]
fn every_run_ends_with_all_levels() {
    for (total, until) in [(1u64, 0.5), (2, 0.999), (3, 0.01), (7, 0.9), (1000, 0.9999)] {
        let config = config(json!({"kind": "share", "until": until}), "low_to_high", false);
        let mut curriculum = Curriculum::new(&config, Uniform::default(), &TrigSchedule, None).unwrap();
        (0..total).for_each(|step| drop(curriculum.sample(1, Clock { step, total }, Device::Cpu)));
        assert_eq!(curriculum.stage(), 3, "{total} {until}");
    }
}

#[test]
fn jitter_moves_levels_by_its_deviation() {
    #[derive(Debug)]
    struct One(f64);
    impl Persist for One {}
    impl TimeSampler for One {
        fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
            let t = Tensor::full([n], self.0, (Kind::Double, device));
            Times { weight: t.ones_like(), t }
        }
    }
    tch::manual_seed(1);
    let mut jitter = LevelJitter { inner: One(0.5), std: 0.7, schedule: schedule() };
    let level = TrigSchedule.log_snr(&draw(&mut jitter, 0, 20_000).t);
    close(&level.mean(Kind::Double), &Tensor::from(0.0), 0.02);
    close(&level.std(true), &Tensor::from(0.7), 0.02);
    jitter.inner.0 = 0.0;
    let t = draw(&mut jitter, 0, 8).t;
    assert!(t.isfinite().all().int64_value(&[]) == 1 && t.max().double_value(&[]) <= 1e-5);
}

#[test]
fn what_cannot_be_names_the_field() {
    let fails = |text: Value, field: &str, words: &str| {
        let technique: TimesTechnique = from_value(text).unwrap();
        let wrapped = technique.wrap(Box::new(Uniform::default()), &schedule(), None);
        let message = wrapped.unwrap_err().to_string();
        assert!(message.starts_with(&format!("{field}: ")) && message.contains(words), "{message}");
    };
    let curriculum = |more: Value| {
        let mut text = json!({"kind": "curriculum", "stages": 3});
        text.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        text
    };
    fails(curriculum(json!({"stages": 0})), "stages", "0 is not between");
    fails(curriculum(json!({"edges": [1.0]})), "edges", "between 3 stages");
    fails(curriculum(json!({"edges": [1.0, 0.0]})), "edges", "1 comes before 0");
    fails(curriculum(json!({"edges": [0.0, 13.0]})), "edges", "13 is not between the schedule's ends");
    for until in [0.0, 1.0, 1.5, -0.1] {
        fails(curriculum(json!({"pace": {"kind": "share", "until": until}})), "pace.until", "reached");
    }
    let plateau = |patience: u64, smoothing: f64, improvement: f64, latest: f64| json!({"pace": {"kind": "plateau", "patience": patience, "smoothing": smoothing, "improvement": improvement, "latest": latest}});
    fails(curriculum(plateau(0, 0.9, 0.01, 0.6)), "pace.patience", "at least 1");
    fails(curriculum(plateau(9, 1.0, 0.01, 0.6)), "pace.smoothing", "1 is not in");
    fails(curriculum(plateau(9, 0.9, -0.01, 0.6)), "pace.improvement", "-0.01");
    fails(curriculum(plateau(9, 0.9, 0.01, 1.0)), "pace.latest", "reached");
    let held_out =
        |every: u64| json!({"pace": {"kind": "held_out", "every": every, "patience": 2, "latest": 0.6}});
    fails(curriculum(held_out(0)), "pace.every", "at least 1");
    fails(curriculum(held_out(5)), "pace.kind", "there is none here");
    fails(json!({"kind": "level_jitter", "std": -1.0}), "std", "-1");
    assert!(
        from_value::<TimesTechnique>(json!({"kind": "level_jitter", "std": 0.1, "strength": 1})).is_err()
    );
    assert!(from_value::<TimesTechnique>(curriculum(json!({"until": 0.5}))).is_err());
}
