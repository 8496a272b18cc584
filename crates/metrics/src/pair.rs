//! A set beside a reference set: metrics on who is near whom.

use crate::nearest::nearest_distinct;
use crate::neighbors::{Balls, Cross, Inside, Neighbors, Wanted, cross, largest_ratio};
use crate::{Error, Interval, NearestPairs, Real, Set, bootstrap_mean, median};
use std::sync::OnceLock;

/// What is free in the definitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NeighborOptions {
    /// The radius of a point's ball is the distance to this neighbour, the point itself not counted.
    pub nearest_k: usize,
    /// Whether the sphere belongs to the ball.
    pub inside: Inside,
    /// A sample is a copy when nearer than this share of the distance to the second-nearest.
    pub memorized_ratio: f64,
    /// Neighbours whose mean distance is the measure of Carlini's.
    pub carlini_k: usize,
    /// The share of that mean which is 1.
    pub carlini_alpha: f64,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for NeighborOptions {
    /// Of prdc; Yoon et al. 2023; Carlini et al. 2023.
    fn default() -> Self {
        Self {
            nearest_k: 5,
            inside: Inside::Open,
            memorized_ratio: crate::MEMORIZED_RATIO,
            carlini_k: 50,
            carlini_alpha: 0.5,
            seed: 0,
        }
    }
}

impl NeighborOptions {
    /// Which of them cannot be: without a neighbour there is no ball, and one alone is no neighbourhood.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |setting: &'static str, reason: String| Err(Error::Setting { setting, reason });
        let Self { nearest_k, memorized_ratio, carlini_k, carlini_alpha, .. } = *self;
        if nearest_k < 1 {
            return wrong("nearest_k", format!("{nearest_k}, where at least 1 is needed"));
        }
        if carlini_k < 2 {
            return wrong("carlini_k", format!("{carlini_k}, where at least 2 are needed, and 50 are usual"));
        }
        if !(memorized_ratio > 0.0 && memorized_ratio <= 1.0) {
            let reason =
                format!("{memorized_ratio}, where a number above 0 and up to 1 is needed; 1/3 is usual");
            return wrong("memorized_ratio", reason);
        }
        if !(carlini_alpha.is_finite() && carlini_alpha > 0.0) {
            return wrong("carlini_alpha", format!("{carlini_alpha}, where a number above 0 is needed"));
        }
        Ok(())
    }
}

/// Who is near whom in two sets, as far as it was asked for: it can outlive the pair.
#[derive(Debug, Default)]
pub struct Compared {
    with_balls: OnceLock<Cross>,
    nearest: OnceLock<Neighbors>,
}

/// Queries (samples, or what stands for them) and references (training images, or what stands for them).
#[derive(Debug)]
pub struct Pair<'s, 'q, 'r, T: Real> {
    queries: &'s Set<'q, T>,
    references: &'s Set<'r, T>,
    options: NeighborOptions,
    compared: &'s Compared,
}

impl<'s, 'q, 'r, T: Real> Pair<'s, 'q, 'r, T> {
    /// Both sets have the centre and the `nearest_k` of `options`; `compared` belongs to these two sets alone.
    pub fn new(
        queries: &'s Set<'q, T>,
        references: &'s Set<'r, T>,
        options: NeighborOptions,
        compared: &'s Compared,
    ) -> Self {
        Self { queries, references, options, compared }
    }

    fn with_balls(&self) -> &Cross {
        self.compared.with_balls.get_or_init(|| {
            let radii = [self.queries.squared_radii(), self.references.squared_radii()];
            let radii = Some([radii[0].as_slice(), radii[1].as_slice()]);
            cross(
                self.queries.points(),
                self.references.points(),
                Wanted { k: 2, radii, inside: self.options.inside },
            )
        })
    }

    /// The two nearest references of every query. Where nobody asked for balls their radii, a pass within each set, are not
    /// computed for this.
    fn nearest(&self) -> &Neighbors {
        match self.compared.with_balls.get() {
            Some(found) => &found.nearest,
            None => self.compared.nearest.get_or_init(|| {
                let wanted = Wanted { k: 2, ..Wanted::default() };
                cross(self.queries.points(), self.references.points(), wanted).nearest
            }),
        }
    }

    fn balls(&self) -> &Balls {
        self.with_balls().balls.as_ref().unwrap_or_else(|| unreachable!("radii were given"))
    }

    fn share(&self, holds: impl Iterator<Item = bool>) -> Interval {
        self.mean(holds.map(|h| f64::from(u8::from(h))))
    }

    fn mean(&self, values: impl Iterator<Item = f64>) -> Interval {
        bootstrap_mean(&values.collect::<Vec<_>>(), self.options.seed)
    }

    /// Share of the queries that lie in a reference's ball; Kynkäänniemi et al. 2019, Eq. 2.
    pub fn precision(&self) -> Interval {
        self.share(self.balls().held_by.iter().map(|n| *n > 0))
    }

    /// Share of the references that lie in a query's ball; Kynkäänniemi et al. 2019, Eq. 2.
    pub fn recall(&self) -> Interval {
        self.share(self.balls().recalled.iter().copied())
    }

    /// References' balls that hold a query, over `k`; Naeem et al. 2020, Eq. 4.
    pub fn density(&self) -> Interval {
        self.mean(self.balls().held_by.iter().map(|n| f64::from(*n) / self.options.nearest_k as f64))
    }

    /// Share of the references whose ball holds a query; Naeem et al. 2020, Eq. 5.
    pub fn coverage(&self) -> Interval {
        self.share(self.balls().covered.iter().copied())
    }

    /// For each query the largest `R / d` over the references whose radius is at most the median; Kynkäänniemi et al. 2019,
    /// Eq. 3. Infinite where a query equals a reference.
    pub fn realism_scores(&self) -> Vec<f64> {
        let mut radii = self.references.squared_radii();
        let median = median(radii.iter().map(|r| r.sqrt()).collect()).value;
        radii.iter_mut().filter(|r| r.sqrt() > median).for_each(|r| *r = 0.0);
        let ratios = largest_ratio(self.queries.points(), self.references.points(), &radii);
        ratios.into_iter().map(f64::sqrt).collect()
    }

    /// Median of the scores, since a single copy makes the mean infinite.
    pub fn realism(&self) -> Interval {
        median(self.realism_scores())
    }

    /// Percentage of the queries that are farther from their nearest reference than that reference is from its own nearest
    /// neighbour; Alaa et al. 2022, Eq. 6. 100 where nothing is copied.
    pub fn auth_pct(&self) -> Interval {
        let within = self.references.within();
        let authentic = |row: &[(f64, u32)]| within.row(row[0].1 as usize)[0].0 < row[0].0;
        self.mean(self.nearest().rows().map(|row| if authentic(row) { 100.0 } else { 0.0 }))
    }

    /// The two nearest distinct references of every query.
    pub fn nearest_pairs(&self) -> Result<NearestPairs, Error> {
        Ok(match self.references.firsts()? {
            Some(firsts) => nearest_distinct(self.queries.points(), self.references.points(), Some(firsts)),
            None => NearestPairs::collect(self.nearest().rows().map(|row| [row[0], row[1]])),
        })
    }

    /// Share of the queries with `d1 / d2 < 1/3` to the nearest two distinct references; Yoon et al. 2023; Gu et al. 2023,
    /// Eq. 5.
    pub fn f_mem(&self) -> Result<Interval, Error> {
        Ok(self.share(self.nearest_pairs()?.memorized(self.options.memorized_ratio).into_iter()))
    }

    /// Distance to the nearest reference over `alpha` times the mean distance to the nearest `k`, for each query; Carlini et
    /// al. 2023, Section 5.1. Below 1: extracted. With fewer references than `k` all of them are the neighbourhood.
    pub fn carlini_distances(&self) -> Vec<f64> {
        let wanted = Wanted { k: self.options.carlini_k, ..Wanted::default() };
        let found = cross(self.queries.points(), self.references.points(), wanted);
        let normalized = |row: &[(f64, u32)]| {
            let mean = row.iter().map(|(d, _)| d.sqrt()).sum::<f64>() / row.len() as f64;
            let nearest = row[0].0.sqrt();
            // A query in a crowd of its own copies is a copy.
            if nearest == 0.0 { 0.0 } else { nearest / (self.options.carlini_alpha * mean) }
        };
        found.nearest.rows().map(normalized).collect()
    }

    /// Share of the queries whose normalised distance is below 1.
    pub fn carlini(&self) -> Interval {
        self.share(self.carlini_distances().into_iter().map(|d| d < 1.0))
    }
}
