//! Techniques on the gradient, against closed forms.

use super::{Plain, Scripted, batch, model};
use crate::{
    Accumulate, AccumulateConfig, Clip, ClipConfig, GradientNoise, GradientNoiseConfig, GradientTechnique,
    Maml, MamlConfig, MamlOrder, PcGrad, PcGradConfig, Sam, SamConfig, TaskKind, TasksConfig, build_gradient,
};
use heldout_core::{Batch, Clock, Cond, Gradient, Objective, Params};
use heldout_testkit::{check_absent_gradient, check_gradient, close, same};
use tch::{Device, Kind, Tensor, nn};

const CLOCK: Clock = Clock { step: 3, total: 10 };

fn norm(grads: &[Tensor]) -> f64 {
    Tensor::stack(&grads.iter().map(|g| g.norm()).collect::<Vec<_>>(), 0).norm().double_value(&[])
}

fn clip(max_norm: f64) -> Clip<Plain> {
    Clip { inner: Plain, config: ClipConfig { max_norm } }
}

/// One parameter `w` of these numbers.
fn vector(numbers: &[f64]) -> (Params, Tensor) {
    let mut vars = nn::VarStore::new(Device::Cpu);
    vars.set_kind(Kind::Double);
    let w = vars.root().var_copy("w", &Tensor::from_slice(numbers));
    (Params::of(&vars), w)
}

fn points(x: &[f64]) -> Batch {
    Batch::new(Tensor::from_slice(x).view([-1, 1, 1, 1]), Cond::default())
}

#[test]
fn clipping_shortens_and_never_turns() {
    let (params, mut objective) = model();
    let batch = batch();
    let plain = check_gradient(&mut Plain, &mut objective, &params, &batch);
    let free = check_gradient(&mut clip(1e9), &mut objective, &params, &batch);
    assert!(same(&plain, &free), "a long leash changes nothing");
    let clipped = check_gradient(&mut clip(1e-3), &mut objective, &params, &batch);
    let ratio = 1e-3 / norm(&plain);
    assert!(ratio < 1.0 && (norm(&clipped) - 1e-3).abs() < 1e-6);
    clipped.iter().zip(&plain).for_each(|(c, p)| close(c, &(p * ratio), 1e-6));
    assert!(ClipConfig { max_norm: 0.0 }.check().is_err());
}

#[test]
fn parts_of_a_batch_give_the_gradient_of_the_whole() {
    let (params, w) = vector(&[0.3, -0.8]);
    let rows = move |b: &Batch| {
        let x = b.x_start.flatten(1, -1);
        ((&x * &w).sum_dim_intlist(1i64, false, Kind::Double).tanh() - 0.5).square()
    };
    let mut objective =
        Scripted(Box::new(move |b| (rows(b), Tensor::zeros([b.len()], (Kind::Double, Device::Cpu)))));
    let b = points(&[0.3, 0.1, -0.4, 2.0, 1.0, -1.5, 0.2, 0.9]);
    let whole = check_gradient(&mut Plain, &mut objective, &params, &b);
    let of = |micro_batches| Accumulate { inner: Plain, config: AccumulateConfig { micro_batches } };
    let parts = check_gradient(&mut of(4), &mut objective, &params, &b);
    close(&parts[0], &whole[0], 1e-12);
    let evaluation = of(4).gradient(&params, &mut objective, &b, CLOCK).unwrap();
    close(&evaluation.loss, &objective.evaluate(&b, CLOCK).unwrap().loss.detach(), 1e-7);
    assert_eq!(evaluation.rows.unwrap().loss.size(), [8]);
    let error = of(3).gradient(&params, &mut objective, &b, CLOCK).unwrap_err().to_string();
    assert!(error.starts_with("micro_batches: 3 does not divide a batch of 8"), "{error}");
    let (params, mut objective) = model();
    check_absent_gradient(&mut of(1), &mut Plain, &mut objective, &params, &batch());
}

#[test]
fn gradient_noise_has_its_variance() {
    let (params, mut objective) = model();
    let of = |eta: f64| GradientNoise {
        inner: Plain,
        config: GradientNoiseConfig { eta: eta.into(), gamma: 0.55 },
    };
    check_absent_gradient(&mut of(0.0), &mut Plain, &mut objective, &params, &batch());
    let plain = check_gradient(&mut Plain, &mut objective, &params, &batch());
    let noisy = check_gradient(&mut of(0.3), &mut objective, &params, &batch());
    let added: Vec<_> = noisy.iter().zip(&plain).map(|(a, b)| (a - b).flatten(0, -1)).collect();
    let variance = Tensor::cat(&added, 0).var(true).double_value(&[]);
    let wanted = 0.3 / 4f64.powf(0.55); // 194 numbers
    assert!((variance / wanted - 1.0).abs() < 0.3, "{variance} where {wanted} was asked for");
    assert!(GradientNoiseConfig { eta: (-1.0).into(), gamma: 0.5 }.check().is_err());
}

/// On `1/2 w'Aw` the gradient of SAM is `A (w + rho Aw / |Aw|)`.
#[test]
fn sam_on_a_quadratic_is_exact() {
    let a = Tensor::from_slice(&[2.0, 0.5, 0.5, 1.0]).view([2, 2]);
    let (params, w) = vector(&[1.0, -2.0]);
    let start = w.detach().copy();
    let (matrix, at) = (a.shallow_clone(), w.shallow_clone());
    let value = move |b: &Batch| (at.dot(&matrix.mv(&at)) * 0.5).expand([b.len()], false);
    let zeros = |b: &Batch| Tensor::zeros([b.len()], (Kind::Double, Device::Cpu));
    let mut objective = Scripted(Box::new(move |b| (value(b), zeros(b))));
    let of = |adaptive| Sam { inner: Plain, config: SamConfig { rho: 0.3.into(), adaptive } };
    let g = a.mv(&start);
    let got = check_gradient(&mut of(false), &mut objective, &params, &points(&[0.0]));
    close(&got[0], &a.mv(&(&start + &g * (0.3 / g.norm()))), 1e-6);
    let t = start.abs();
    let step = &t * &t * &g * (0.3 / (&t * &g).norm());
    let got = check_gradient(&mut of(true), &mut objective, &params, &points(&[0.0]));
    close(&got[0], &a.mv(&(&start + step)), 1e-6);
}

/// Both evaluations see the same noise: a step of no length to speak of leaves the gradient of the first.
#[test]
fn sam_keeps_the_noise_and_is_absent_at_zero() {
    let (params, mut objective) = model();
    let of = |rho: f64| Sam { inner: Plain, config: SamConfig { rho: rho.into(), adaptive: false } };
    check_absent_gradient(&mut of(0.0), &mut Plain, &mut objective, &params, &batch());
    let near = check_gradient(&mut of(1e-7), &mut objective, &params, &batch());
    let far = check_gradient(&mut of(0.5), &mut objective, &params, &batch());
    let b = batch();
    tch::manual_seed(7);
    let draws = crate::draws::Draws::new();
    draws.seed(0);
    Plain.gradient(&params, &mut objective, &b, CLOCK).unwrap();
    params.grads().zip(&near).for_each(|(plain, near)| close(&plain, near, 1e-5));
    assert!(params.grads().zip(&far).any(|(plain, far)| (plain - far).abs().max().double_value(&[]) > 1e-3));
    assert!(SamConfig { rho: (-0.1).into(), adaptive: false }.check().is_err());
}

/// Rows `v_i . w`, each at its level: the gradient of a band is the sum of its rows.
fn linear_rows(w: &Tensor, rows: &[[f64; 2]], levels: &[f64]) -> Scripted {
    let v = Tensor::from_slice(&rows.concat()).view([-1, 2]);
    let (w, levels) = (w.shallow_clone(), Tensor::from_slice(levels));
    Scripted(Box::new(move |_| (v.mv(&w), levels.shallow_clone())))
}

#[test]
fn conflicting_bands_are_projected_as_in_the_paper() {
    let (params, w) = vector(&[0.5, 0.5]);
    let of = |edges: &[f64]| PcGrad { config: PcGradConfig { edges: edges.to_vec() } };
    let b = points(&[0.0; 4]);
    let agree = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.0]];
    let mut objective = linear_rows(&w, &agree, &[-3.0, -1.0, 1.0, 3.0]);
    let plain = check_gradient(&mut Plain, &mut objective, &params, &b);
    let none = check_gradient(&mut of(&[0.0]), &mut objective, &params, &b);
    close(&none[0], &plain[0], 1e-7);

    // g1 = (1, 0), g2 = (-1, 1), each over two rows.
    let mut objective = linear_rows(&w, &[[2.0, 0.0], [-2.0, 2.0]], &[-1.0, 1.0]);
    let got = check_gradient(&mut of(&[0.0]), &mut objective, &params, &points(&[0.0; 2]));
    // g1 - (g1.g2/|g2|^2) g2 = (1/2, 1/2); g2 - (g2.g1/|g1|^2) g1 = (0, 1)
    close(&got[0], &Tensor::from_slice(&[0.5, 1.5]), 1e-7);
    let evaluation = of(&[0.0]).gradient(&params, &mut objective, &points(&[0.0; 2]), CLOCK).unwrap();
    assert_eq!(evaluation.terms.last().map(|(n, t)| (*n, t.double_value(&[]))), Some(("conflicts", 1.0)));

    // Three bands, by the algorithm as it is written.
    let rows = [[3.0, 0.0], [-3.0, 1.5], [1.0, -2.0]];
    let mut objective = linear_rows(&w, &rows, &[-5.0, 0.0, 5.0]);
    let got = check_gradient(&mut of(&[-2.0, 2.0]), &mut objective, &params, &points(&[0.0; 3]));
    tch::manual_seed(7);
    let g = rows.map(|r| Tensor::from_slice(&r) / 3.0);
    let mut sum = g[0].zeros_like();
    for i in 0..3 {
        let mut own = g[i].copy();
        let order = Tensor::randperm(3, (Kind::Int64, Device::Cpu));
        for j in (0..3).map(|k| order.int64_value(&[k]) as usize).filter(|j| *j != i) {
            let along = own.dot(&g[j]).double_value(&[]);
            if along < 0.0 {
                own -= &g[j] * (along / g[j].dot(&g[j]).double_value(&[]));
            }
        }
        sum += own;
    }
    close(&got[0], &sum, 1e-6);
    assert!(PcGradConfig { edges: vec![1.0, 0.0] }.check().unwrap_err().to_string().starts_with("edges: "));
}

fn tasks(of: TaskKind, per_step: usize, support: usize, query: usize) -> TasksConfig {
    TasksConfig { of, per_step, support, query }
}

/// Rows of a small nonlinear regression.
fn curved(w: &Tensor, b: &Batch) -> Tensor {
    let x = b.x_start.flatten(0, -1);
    let answer = (w.get(0) * &x + w.get(1)).tanh() * w.get(2);
    (answer - (&x * 2.0).sin()).square()
}

fn classes(x: &[f64], labels: &[i64]) -> Batch {
    Batch::new(Tensor::from_slice(x).view([-1, 1, 1, 1]), Cond::of_labels(Tensor::from_slice(labels)))
}

#[test]
fn mamls_gradients_of_both_orders_are_those_of_finite_differences() {
    let x = [0.1, -0.7, 1.3, 0.4, -1.1, 0.8, 0.2, -0.3];
    let b = classes(&x, &[0, 1, 0, 1, 0, 1, 0, 1]);
    let (params, w) = vector(&[0.7, -0.2, 1.1]);
    let at = w.shallow_clone();
    let mut objective =
        Scripted(Box::new(move |b| (curved(&at, b), Tensor::zeros([b.len()], (Kind::Double, Device::Cpu)))));
    let (rate, steps) = (0.2, 3);
    // The same by hand: class c has rows c, c + 2 to learn from and c + 4, c + 6 to be asked.
    let part = |c: i64, from: i64| b.select(&Tensor::from_slice(&[c + from, c + from + 2]));
    let loss = |w: &Tensor, b: &Batch| curved(w, b).mean(Kind::Double);
    let adapted = |w: &Tensor, c: i64| {
        let mut w = w.detach().copy().set_requires_grad(true);
        for _ in 0..steps {
            let g = Tensor::run_backward(&[loss(&w, &part(c, 0))], &[&w], false, false).swap_remove(0);
            w = (&w - g * rate).detach().set_requires_grad(true);
        }
        w.detach()
    };
    let start = w.detach().copy();
    let differences = |f: &dyn Fn(&Tensor) -> f64, at: &Tensor| {
        let h = 1e-5;
        let along = |i: i64| {
            let step = at.zeros_like();
            let _ = step.get(i).fill_(h);
            (f(&(at + &step)) - f(&(at - &step))) / (2.0 * h)
        };
        Tensor::from_slice(&[along(0), along(1), along(2)])
    };
    let after = |w: &Tensor, c: i64| loss(&adapted(w, c), &part(c, 4)).double_value(&[]);
    let second = differences(&|w| 0.5 * (after(w, 0) + after(w, 1)), &start);
    let query = |w: &Tensor, c: i64| loss(w, &part(c, 4)).double_value(&[]);
    let ends = [0, 1].map(|c| differences(&|w| query(w, c), &adapted(&start, c)));
    let first = (&ends[0] + &ends[1]) * 0.5;
    assert!((&first - &second).abs().max().double_value(&[]) > 1e-3, "the orders are too close to tell");
    for (order, wanted) in [(MamlOrder::First, first), (MamlOrder::Second, second)] {
        let config = MamlConfig {
            tasks: tasks(TaskKind::Class, 2, 2, 2),
            inner_steps: steps,
            inner_rate: rate,
            order,
        };
        let got = check_gradient(&mut Maml { config }, &mut objective, &params, &b);
        close(&got[0], &wanted, 1e-7);
    }
}

#[test]
fn mamls_tasks_are_classes_attributes_bands_and_shards() {
    let config = |of| MamlConfig {
        tasks: tasks(of, 4, 4, 4),
        inner_steps: 1,
        inner_rate: 0.01,
        order: MamlOrder::Second,
    };
    let (params, mut objective) = model();
    let mut b = batch();
    b.cond.label = Some(Tensor::arange(64, (Kind::Int64, Device::Cpu)).remainder(3));
    b.index = Some(Tensor::arange(64, (Kind::Int64, Device::Cpu)));
    check_gradient(&mut Maml { config: config(TaskKind::Class) }, &mut objective, &params, &b);
    check_gradient(&mut Maml { config: config(TaskKind::Shard { shards: 5 }) }, &mut objective, &params, &b);
    b.cond.label = Some(Tensor::ones([64, 2], (Kind::Float, Device::Cpu)));
    check_gradient(&mut Maml { config: config(TaskKind::Attribute) }, &mut objective, &params, &b);

    // A band's task learns from its own rows alone.
    let (params, w) = vector(&[0.5, 0.5]);
    let mut objective = linear_rows(&w, &[[1.0, 0.0], [0.0, 1.0]], &[-1.0, 1.0]);
    let of = TaskKind::NoiseBand { edges: vec![0.0] };
    let one = MamlConfig { tasks: tasks(of, 2, 2, 2), ..config(TaskKind::Class) };
    let got = check_gradient(&mut Maml { config: one }, &mut objective, &params, &points(&[0.0; 4]));
    close(&got[0], &Tensor::from_slice(&[0.5, 0.5]), 1e-7); // each band's own direction, mean of two
}

/// What looks at rows within a task, as PCGrad does, sees those of its band alone.
#[test]
fn the_rows_of_a_task_are_those_of_its_band() {
    let (_, w) = vector(&[0.5, 0.25]);
    let mut objective = linear_rows(&w, &[[2.0, 0.0], [0.0, 4.0], [4.0, 0.0]], &[-1.0, 1.0, -2.0]);
    let mut seen = Vec::new();
    for task in tasks(TaskKind::NoiseBand { edges: vec![0.0] }, 2, 3, 0).of_batch(&points(&[0.0; 3])).unwrap()
    {
        let evaluation = task.evaluation(objective.evaluate(&task.support, CLOCK).unwrap()).unwrap();
        let rows = evaluation.rows.unwrap().loss;
        close(&rows.mean(Kind::Float), &evaluation.loss, 1e-7);
        seen.push(Vec::<f64>::try_from(rows).unwrap());
    }
    seen.sort_by(|a, b| b[0].total_cmp(&a[0]));
    assert_eq!(seen, [[1.5, 0.0, 3.0], [0.0, 3.0, 0.0]]);
}

/// A small training set is repeated within a batch: no example is on both sides.
#[test]
fn support_and_query_share_no_example() {
    let config = tasks(TaskKind::Class, 1, 2, 2);
    let mut b = classes(&[0.0; 6], &[0; 6]);
    b.index = Some(Tensor::from_slice(&[4i64, 9, 4, 9, 4, 7]));
    let error = config.of_batch(&b).unwrap_err().to_string();
    assert!(error.starts_with("support: 2 and a query of 2: no task has as many"), "{error}");
    b.index = Some(Tensor::from_slice(&[4i64, 9, 4, 3, 4, 7]));
    let task = config.of_batch(&b).unwrap().swap_remove(0);
    assert_eq!(Vec::<i64>::try_from(task.query.index.unwrap()).unwrap(), [3, 7]);
}

#[test]
fn what_maml_cannot_do_names_the_field() {
    let of = |tasks, inner_steps| MamlConfig { tasks, inner_steps, inner_rate: 0.1, order: MamlOrder::First };
    let says = |config: MamlConfig, words: &str| {
        let error = config.check(16).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    };
    says(of(tasks(TaskKind::Class, 1, 10, 10), 1), "tasks.support: 10 and a query of 10 are more than");
    says(of(tasks(TaskKind::Class, 1, 4, 0), 1), "tasks.query: ");
    says(of(tasks(TaskKind::Class, 1, 4, 4), 0), "inner_steps: ");
    says(of(tasks(TaskKind::NoiseBand { edges: Vec::new() }, 1, 4, 4), 1), "tasks.of.edges: ");
    says(of(tasks(TaskKind::Shard { shards: 1 }, 1, 4, 4), 1), "tasks.of.shards: ");
    let (params, mut objective) = model();
    let mut maml = Maml { config: of(tasks(TaskKind::Class, 1, 4, 4), 1) };
    let error = maml.gradient(&params, &mut objective, &batch(), CLOCK).unwrap_err().to_string();
    assert!(error.starts_with("maml.tasks.of.kind: class: the data have no class ids"), "{error}");
}

#[test]
fn techniques_wrap_in_the_order_of_the_recipe() {
    let clip = GradientTechnique::Clip(ClipConfig { max_norm: 1.0 });
    let pc_grad = GradientTechnique::PcGrad(PcGradConfig { edges: vec![0.0] });
    let accumulate = |micro_batches| GradientTechnique::Accumulate(AccumulateConfig { micro_batches });
    let build = |list: &[GradientTechnique]| build_gradient(list, Box::new(Plain), 16);
    assert!(build(&[pc_grad.clone(), accumulate(4), clip.clone()]).is_ok());
    let error = build(&[clip, pc_grad]).unwrap_err().to_string();
    assert!(error.starts_with("gradient[1].kind: "), "{error}");
    let error = build(&[accumulate(8), accumulate(4)]).unwrap_err().to_string();
    assert!(error.starts_with("gradient[1].micro_batches: 4 does not divide a batch of 2"), "{error}");
}
