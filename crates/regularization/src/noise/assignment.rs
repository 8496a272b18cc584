//! The assignment problem.

const FREE: usize = usize::MAX;

/// For every row the column that is its own, so that the sum of `cost` `[n * n]`, row by row, is the smallest.
///
/// Shortest augmenting paths with dual prices; Jonker and Volgenant 1987. Exact for finite costs, `O(n^3)`.
pub(crate) fn cheapest(cost: &[f64], n: usize) -> Vec<usize> {
    let free = || vec![FREE; n];
    let mut found = Assignment { row_of: free(), column_of: free(), u: vec![0.0; n], v: vec![0.0; n] };
    (0..n).for_each(|row| found.assign(cost, row));
    found.column_of
}

/// A part of an assignment with prices such that `cost[i, j] - u[i] - v[j]` is 0 for what is assigned and nowhere negative.
struct Assignment {
    row_of: Vec<usize>,
    column_of: Vec<usize>,
    u: Vec<f64>,
    v: Vec<f64>,
}

impl Assignment {
    /// Assigns one more row along the shortest path from it to a free column.
    fn assign(&mut self, cost: &[f64], start: usize) {
        let n = self.row_of.len();
        let mut distance = vec![f64::INFINITY; n];
        let mut reached_from = vec![start; n];
        let mut open: Vec<usize> = (0..n).collect();
        let mut passed = Vec::new(); // Assigned columns that the search went through.
        let (mut row, mut length) = (start, 0.0);
        let end = loop {
            let mut nearest = 0;
            for (place, &column) in open.iter().enumerate() {
                let through = length + cost[row * n + column] - self.u[row] - self.v[column];
                if through < distance[column] {
                    distance[column] = through;
                    reached_from[column] = row;
                }
                if distance[column] < distance[open[nearest]] {
                    nearest = place;
                }
            }
            let column = open.swap_remove(nearest);
            length = distance[column];
            if self.row_of[column] == FREE {
                break column;
            }
            passed.push(column);
            row = self.row_of[column];
        };
        self.u[start] += length;
        for column in passed {
            self.u[self.row_of[column]] += length - distance[column];
            self.v[column] -= length - distance[column];
        }
        self.turn(start, end, &reached_from);
    }

    /// Gives every row on the path to `end` the column to which it led.
    fn turn(&mut self, start: usize, end: usize, reached_from: &[usize]) {
        let mut column = end;
        loop {
            let row = reached_from[column];
            let freed = std::mem::replace(&mut self.column_of[row], column);
            self.row_of[column] = row;
            if row == start {
                return;
            }
            column = freed;
        }
    }
}
