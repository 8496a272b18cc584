//! The predicted stop step.

use crate::{Onset, predict_stop};
use tch::{Device, Kind, Tensor};

fn pilots(all: &[(u64, u64)], resolution: u64) -> Vec<Onset> {
    all.iter().map(|&(n, step)| Onset { n, step, resolution }).collect()
}

/// Pilots in exact proportion: the prediction is the law, and the interval is what the looks leave open.
#[test]
fn an_exact_law_is_met_exactly() {
    let exact = [(128, 1280), (256, 2560), (512, 5120)];
    let p = predict_stop(&pilots(&exact, 0), 8192).unwrap();
    for (found, wanted) in [(p.step, 81920.0), (p.lower, 81920.0), (p.upper, 81920.0), (p.exponent, 1.0)] {
        assert!((found / wanted - 1.0).abs() < 1e-9, "{found}, wanted {wanted}");
    }
    assert!(
        p.warning.is_none() && p.exponent_error.unwrap() < 1e-9 && (p.steps_by_image - 10.0).abs() < 1e-9
    );
    // Half a look is 10 %, 5 % and 2.5 % of the step.
    let p = predict_stop(&pilots(&exact, 256), 8192).unwrap();
    let half = ((0.01 + 0.0025 + 0.000_625) / 3.0_f64).sqrt();
    assert!(((p.upper / p.step).ln() - half).abs() < 1e-9 && ((p.step / p.lower).ln() - half).abs() < 1e-9);
    assert_eq!(p, predict_stop(&pilots(&exact, 256), 8192).unwrap());
    // Two pilots: the interval is that of one degree of freedom.
    let p = predict_stop(&pilots(&[(100, 1000), (200, 2200)], 0), 1000).unwrap();
    let wanted = 12.706_204_736 * 1.1f64.ln() / 2.0f64.sqrt() * 1.5f64.sqrt();
    assert!(((p.upper / p.step).ln() - wanted).abs() < 1e-9 && p.exponent_error.is_none());
}

/// In 2000 simulated studies with log-normal scatter the interval holds the onset of a further run 95 times in 100.
#[test]
fn intervals_cover() {
    tch::manual_seed(1);
    let sizes = [64, 128, 256, 512];
    for (pilots, scatter) in [(2, 0.1), (3, 0.2), (4, 0.3)] {
        let noise = Tensor::randn([2000, 5], (Kind::Double, Device::Cpu)) * scatter;
        let onset = |n: u64, study: i64, i: i64| n as f64 * 1e6 * noise.double_value(&[study, i]).exp();
        let hits = (0..2000).filter(|study| {
            let of = |i: usize| Onset {
                n: sizes[i],
                step: onset(sizes[i], *study, i as i64) as u64,
                resolution: 100,
            };
            let p = predict_stop(&(0..pilots).map(of).collect::<Vec<_>>(), 4096).unwrap();
            (p.lower..=p.upper).contains(&onset(4096, *study, 4))
        });
        let share = hits.count() as f64 / 2000.0;
        assert!((0.93..=0.97).contains(&share), "{pilots} pilots: {share}");
    }
}

/// Coarse looks make intervals wider, not wrong: they cover at least as often.
#[test]
fn coarse_looks_are_covered() {
    tch::manual_seed(2);
    let looks = Tensor::rand([2000, 4], (Kind::Double, Device::Cpu)) - 0.5;
    let hits = (0..2000).filter(|study| {
        // No scatter but that of looks every 2000 steps.
        let of = |(i, n): (i64, u64)| Onset {
            n,
            step: (n as f64 * 100.0 + 2000.0 * looks.double_value(&[*study, i])) as u64,
            resolution: 2000,
        };
        let p = predict_stop(&[(0, 64), (1, 128), (2, 256)].map(of), 512).unwrap();
        (p.lower..=p.upper).contains(&51_200.0)
    });
    assert!(hits.count() as f64 / 2000.0 >= 0.95);
}

#[test]
fn what_speaks_against_the_law_is_said() {
    let warning =
        |all: &[(u64, u64)]| predict_stop(&pilots(all, 0), 1000).unwrap().warning.unwrap_or_default();
    let root = [(100, 1000), (400, 2000), (1600, 4000)];
    let text = warning(&root);
    assert!(text.contains("4.0-fold") && text.contains("n to the 0.50"), "{text}");
    assert!(
        warning(&[(100, 1000), (200, 4100)]).contains("2.0-fold")
            || !warning(&[(100, 1000), (200, 4100)]).is_empty()
    );
    assert_eq!(warning(&[(100, 1000), (200, 2300), (400, 3800)]), "", "scatter is no other law");
}

/// The slope and its error are those of the textbook: x = 0, 1, 2 in units of ln 2, residuals -e, 2e, -e.
#[test]
fn the_exponent_has_its_standard_error() {
    let all = [(100, 100_000), (200, 220_000), (400, 400_000)];
    let p = predict_stop(&pilots(&all, 0), 800).unwrap();
    assert!((p.exponent - 1.0).abs() < 1e-9);
    let e = 1.1f64.ln() / 3.0;
    let wanted = (6.0 * e * e / (2.0 * 2.0f64.ln().powi(2))).sqrt();
    assert!((p.exponent_error.unwrap() - wanted).abs() < 1e-9);
}

#[test]
fn pilots_that_show_nothing_are_refused() {
    let fails = |all: &[(u64, u64)], resolution, n, words: &str| {
        let message = predict_stop(&pilots(all, resolution), n).unwrap_err().to_string();
        assert!(message.starts_with(words), "{message}");
    };
    fails(&[], 0, 10, "onsets: pilots of 0 different n");
    fails(&[(100, 1000), (100, 1100)], 0, 10, "onsets: pilots of 1 different n");
    fails(&[(100, 1000), (0, 1100)], 0, 10, "onsets.1.n: 0");
    fails(&[(100, 0), (200, 1100)], 0, 10, "onsets.0.step: 0");
    fails(&[(100, 1000), (200, 1100)], 2000, 10, "onsets.0.resolution: 2000");
    fails(&[(100, 1000), (200, 1100)], 10, 0, "n: 0");
}
