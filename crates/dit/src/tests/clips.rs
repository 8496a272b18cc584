//! Laws of the transformer for clips.

use super::{F32, input, levels, random, randomise, tiny};
use crate::{ClipAttention, Dit, DitConfig, Positions, SpaceTimeConfig, SpaceTimeDit, StackedFrames};
use heldout_core::{Backbone, Cond, Recorder, Site};
use heldout_testkit::{check_backbone, close};
use tch::{Device, Tensor, nn};

const ALL: [ClipAttention; 3] = [ClipAttention::Divided, ClipAttention::Joint, ClipAttention::SpaceOnly];

fn config(attention: ClipAttention) -> SpaceTimeConfig {
    SpaceTimeConfig { image: tiny(), frames: 4, attention }
}

fn clips(rows: i64, frames: i64) -> Tensor {
    tch::manual_seed(2);
    Tensor::randn([rows, 4, frames, 8, 4], F32)
}

fn labels(ids: &[i64]) -> Cond {
    Cond::of_labels(Tensor::from_slice(ids))
}

fn fresh(config: &SpaceTimeConfig) -> (nn::VarStore, SpaceTimeDit) {
    tch::manual_seed(4);
    let vars = nn::VarStore::new(Device::Cpu);
    let network = SpaceTimeDit::new(&vars.root(), config).unwrap();
    (vars, network)
}

/// An image transformer with open gates, and one for clips with its weights and everything temporal as it starts.
fn grown(config: &SpaceTimeConfig) -> (Dit, nn::VarStore, SpaceTimeDit) {
    let (image_vars, image) = random(&config.image);
    let (vars, network) = fresh(config);
    let made = vars.variables();
    tch::no_grad(|| {
        for (name, t) in image_vars.variables() {
            made[&name].shallow_clone().copy_(&t);
        }
    });
    (image, vars, network)
}

/// `[B, C, T, H, W] -> [B T, C, H, W]`.
fn folded(x: &Tensor) -> Tensor {
    x.transpose(1, 2).flatten(0, 1)
}

#[test]
fn it_keeps_the_laws_of_a_backbone() {
    for attention in ALL {
        let (vars, network) = fresh(&config(attention));
        randomise(&vars);
        check_backbone(&network, &clips(4, 3), &labels(&[0, 4, 5, 2]));
    }
    let modern = SpaceTimeConfig { image: tiny().modern(), ..config(ClipAttention::Divided) };
    let (vars, network) = fresh(&modern);
    randomise(&vars);
    check_backbone(&network, &clips(4, 3), &labels(&[0, 4, 5, 2]));
}

#[test]
fn at_the_start_it_is_the_image_network_on_every_frame() {
    let (x, level, cond) = (clips(2, 3), levels(2), labels(&[1, 5]));
    for attention in [ClipAttention::Divided, ClipAttention::SpaceOnly] {
        for image_config in [tiny(), tiny().modern()] {
            let (image, _vars, network) =
                grown(&SpaceTimeConfig { image: image_config, ..config(attention) });
            let out = network.forward(input(&x, &level, &cond), &mut ());
            assert_eq!(out.size(), x.size());
            let each = |t: &Tensor| t.repeat_interleave_self_int(3, 0, None::<i64>);
            let (level_each, cond_each) = (each(&level), cond.map(each));
            let wanted = image.forward(input(&folded(&x), &level_each, &cond_each), &mut ());
            assert!(folded(&out).equal(&wanted), "{attention:?} is another network");
            // Frame by frame as well, but for the order of sums in batches of another size.
            for t in 0..3 {
                let frame = image.forward(input(&x.select(2, t), &level, &cond), &mut ());
                close(&out.select(2, t), &frame, 1e-4);
            }
        }
    }
}

#[test]
fn joint_attention_over_one_frame_is_the_image_network() {
    let (image, _vars, network) = grown(&config(ClipAttention::Joint));
    let (x, level, cond) = (clips(2, 1), levels(2), labels(&[1, 5]));
    let out = network.forward(input(&x, &level, &cond), &mut ());
    let wanted = image.forward(input(&x.select(2, 0), &level, &cond), &mut ());
    assert!(out.select(2, 0).equal(&wanted));
}

/// Frames that are all the same are to joint attention what they are to the image network: the softmax sees each key once
/// more for every frame.
#[test]
fn joint_attention_over_equal_frames_is_the_image_network() {
    let (image, _vars, network) = grown(&config(ClipAttention::Joint));
    let (one, level, cond) = (clips(2, 1), levels(2), labels(&[1, 5]));
    let out = network.forward(input(&one.repeat([1, 1, 3, 1, 1]), &level, &cond), &mut ());
    let wanted = image.forward(input(&one.select(2, 0), &level, &cond), &mut ());
    for t in 0..3 {
        close(&out.select(2, t), &wanted, 1e-4);
    }
}

/// How much the other frames of a clip change when one does.
fn influence(network: &SpaceTimeDit) -> f64 {
    let (x, level, cond) = (clips(2, 3), levels(2), labels(&[1, 5]));
    let other = x.copy();
    let _ = other.select(2, 0).g_mul_scalar_(-1.0);
    let of = |x: &Tensor| network.forward(input(x, &level, &cond), &mut ()).narrow(2, 1, 2);
    (of(&x) - of(&other)).abs().max().double_value(&[])
}

#[test]
fn frames_see_each_other_where_they_should() {
    let (_image, vars, network) = grown(&config(ClipAttention::Divided));
    assert_eq!(influence(&network), 0.0);
    tch::no_grad(|| {
        let mut weight = vars.variables()["transformer_blocks.0.temporal_fc.weight"].shallow_clone();
        let noise = weight.randn_like() * 0.3;
        weight.copy_(&noise);
    });
    assert!(influence(&network) > 1e-3);

    let (_image, vars, network) = grown(&config(ClipAttention::SpaceOnly));
    assert!(!vars.variables().keys().any(|name| name.contains("temporal")));
    randomise(&vars);
    assert_eq!(influence(&network), 0.0);

    let (_image, _vars, network) = grown(&config(ClipAttention::Joint));
    assert!(influence(&network) > 1e-3);
}

/// The temporal path by its formula: at every place, attention over the frames there, a linear layer, plus the input.
#[test]
fn time_is_seen_at_one_place() {
    let (_image, vars, network) = grown(&config(ClipAttention::Divided));
    randomise(&vars);
    // Without the blocks' own attention and feed-forward, a patch sees its own place in all frames.
    tch::no_grad(|| {
        for (name, t) in vars.variables() {
            if name.ends_with("norm1.linear.weight") || name.ends_with("norm1.linear.bias") {
                let _ = t.shallow_clone().zero_();
            }
        }
    });
    let (x, level, cond) = (clips(1, 3), levels(1), Cond::default());
    let other = x.copy();
    let _ = other.select(2, 0).narrow(2, 2, 2).narrow(3, 0, 2).g_add_scalar_(1.0); // Row 1, column 0 of patches.
    let of = |x: &Tensor| network.forward(input(x, &level, &cond), &mut ());
    let changed = (of(&x) - of(&other)).abs().amax([0i64, 1], false); // [T, H, W]
    for t in 0..3 {
        let inside = changed.get(t).narrow(0, 2, 2).narrow(1, 0, 2);
        assert!(inside.max().double_value(&[]) > 1e-4, "frame {t} does not see frame 0");
        let all = changed.get(t).sum(tch::Kind::Float) - inside.sum(tch::Kind::Float);
        assert!(all.double_value(&[]).abs() < 1e-4, "frame {t} sees other places");
    }
}

/// Positions in time for another number of frames are the nearest that are learned.
#[test]
fn positions_in_time_are_resized() {
    let (vars, network) = fresh(&config(ClipAttention::SpaceOnly));
    randomise(&vars);
    let learned = vars.variables()["time_embed"].shallow_clone();
    for (frames, nearest) in
        [(4, vec![0i64, 1, 2, 3]), (8, vec![0, 0, 1, 1, 2, 2, 3, 3]), (2, vec![0, 2]), (1, vec![0])]
    {
        let wanted = learned.index_select(1, &Tensor::from_slice(&nearest));
        assert!(network.times(frames).equal(&wanted), "{frames} frames");
        let (x, level, cond) = (clips(2, frames), levels(2), Cond::default());
        network.check(input(&x, &level, &cond)).unwrap();
        assert_eq!(network.forward(input(&x, &level, &cond), &mut ()).size(), x.size());
    }
    // They tell frames apart that are the same otherwise.
    let x = clips(1, 1).repeat([1, 1, 4, 1, 1]);
    let out = network.forward(input(&x, &levels(1), &Cond::default()), &mut ());
    assert!(!out.select(2, 0).equal(&out.select(2, 1)));
}

#[test]
fn every_block_is_seen() {
    let (_vars, network) = fresh(&config(ClipAttention::Divided));
    let mut recorder = Recorder { wanted: (0..3).map(Site::Block).collect(), seen: Vec::new() };
    let out = network.forward(input(&clips(2, 3), &levels(2), &Cond::default()), &mut recorder);
    assert_eq!(recorder.seen.len(), 3);
    assert_eq!(out.abs().max().double_value(&[]), 0.0);
    assert!(recorder.seen.iter().all(|(_, h)| h.equal(&recorder.seen[0].1)), "a block is not the identity");
}

#[test]
fn impossible_settings_are_named() {
    let error = |config: SpaceTimeConfig| config.check().unwrap_err().to_string();
    assert!(error(SpaceTimeConfig { frames: 0, ..config(ClipAttention::Divided) }).starts_with("frames: 0"));
    let image = DitConfig { depth: 0, ..tiny() };
    assert!(error(SpaceTimeConfig { image, ..config(ClipAttention::Divided) }).starts_with("image.depth: 0"));
    let image = DitConfig { positions: Positions::Rotary, ..tiny() };
    assert!(error(SpaceTimeConfig { image, ..config(ClipAttention::Joint) }).starts_with("attention: joint"));
    let (_vars, network) = fresh(&config(ClipAttention::Divided));
    let cond = Cond::default();
    let error = |x: &Tensor, level: &Tensor| network.check(input(x, level, &cond)).unwrap_err().to_string();
    assert!(error(&clips(2, 3).select(2, 0), &levels(2)).contains("[B, C, T, H, W]"));
    assert!(error(&clips(2, 3).narrow(3, 0, 7), &levels(2)).starts_with("sample"));
    assert!(error(&clips(2, 3), &levels(6)).starts_with("timestep"));
    let labelled = labels(&[9, 0]);
    let refused = network.check(input(&clips(2, 3), &levels(2), &labelled)).unwrap_err().to_string();
    assert!(refused.starts_with("class_labels: 9"));
}

#[test]
fn frames_as_channels_are_the_same_network() {
    for attention in ALL {
        let learned = DitConfig { out_channels: 8, ..tiny() };
        let config = SpaceTimeConfig { image: learned, ..config(attention) };
        let (vars, network) = fresh(&config);
        randomise(&vars);
        let mut copy = nn::VarStore::new(Device::Cpu);
        let stacked = StackedFrames::new(&copy.root(), &config).unwrap();
        copy.copy(&vars).unwrap();
        let (x, level, cond) = (clips(2, 4), levels(2), labels(&[1, 5]));
        let flat = x.view([2, 16, 8, 4]);
        stacked.check(input(&flat, &level, &cond)).unwrap();
        let out = stacked.forward(input(&flat, &level, &cond), &mut ());
        let wanted = network.forward(input(&x, &level, &cond), &mut ());
        assert_eq!(out.size(), [2, 32, 8, 4]);
        assert!(out.view([2, 8, 4, 8, 4]).equal(&wanted), "{attention:?}");
        // The first half of the channels is the prediction, frame by frame, as of images.
        assert!(out.narrow(1, 0, 16).view([2, 4, 4, 8, 4]).equal(&wanted.narrow(1, 0, 4)));
        for x in [x, flat.narrow(1, 0, 15), flat.narrow(2, 0, 7)] {
            let refused = stacked.check(input(&x, &level, &cond)).unwrap_err().to_string();
            assert!(refused.starts_with("sample"), "{refused}");
        }
        config.check_images(16, 8, 4).unwrap();
        assert!(config.check_images(12, 8, 4).unwrap_err().to_string().starts_with("frames: 4"));
        assert!(config.check_images(16, 7, 4).unwrap_err().to_string().starts_with("image.patch_size"));
    }
}

/// In training a class is dropped for a clip, not for some of its frames: equal frames stay equal.
#[test]
fn a_class_is_dropped_for_a_whole_clip() {
    let dropping = DitConfig { label_dropout: 0.5, ..tiny() };
    let (vars, network) = fresh(&SpaceTimeConfig { image: dropping, ..config(ClipAttention::SpaceOnly) });
    randomise(&vars);
    let x = clips(12, 1).repeat([1, 1, 3, 1, 1]);
    let (level, cond) = (levels(12), labels(&[1; 12]));
    let batch = heldout_core::Input { train: true, ..input(&x, &level, &cond) };
    let _ = tch::no_grad(|| vars.variables()["time_embed"].shallow_clone().zero_());
    let out = network.forward(batch, &mut ());
    let without = network.forward(heldout_core::Input { train: false, ..batch }, &mut ());
    assert!(
        (0..12).any(|i| !out.get(i).allclose(&without.get(i), 1e-4, 1e-4, false)),
        "no class was dropped"
    );
    for t in 1..3 {
        close(&out.select(2, t), &out.select(2, 0), 1e-4);
    }
}
