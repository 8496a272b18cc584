//! The nearest so far.

/// The `k` nearest of those that were offered: by distance, then by index. An index that is offered again counts once, with
/// its least distance.
#[derive(Debug, Clone)]
pub(crate) struct Best {
    k: usize,
    found: Vec<(f64, u32)>,
}

impl Best {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(k + 1) }
    }

    /// What is farther need not be offered; no less than the `k`th squared distance.
    pub(crate) fn limit(&self) -> f32 {
        match self.found.get(self.k.wrapping_sub(1)) {
            Some((squared, _)) => up(*squared),
            None if self.k == 0 => f32::NEG_INFINITY,
            None => f32::INFINITY,
        }
    }

    pub(crate) fn offer(&mut self, squared: f64, index: usize) {
        let new = (squared, index as u32);
        let place = self.found.partition_point(|old| *old < new);
        if place == self.k || self.found[..place].iter().any(|old| old.1 == new.1) {
            return;
        }
        match self.found[place..].iter().position(|old| old.1 == new.1) {
            Some(again) => drop(self.found.remove(place + again)),
            None => self.found.truncate(self.k - 1),
        }
        self.found.insert(place, new);
    }

    pub(crate) fn found(&self) -> &[(f64, u32)] {
        &self.found
    }
}

/// The least f32 that is not below.
pub(crate) fn up(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) < x { near.next_up() } else { near }
}
