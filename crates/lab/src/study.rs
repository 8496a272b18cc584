//! Studies: what is left to do, and the processes that do it.

mod equal;
mod estimate;
mod in_process;
mod plan;
mod pool;
mod submit;
mod task;
mod worker;

pub use equal::Equal;
pub use estimate::{Calibration, Estimate, Progress, calibrate, estimates};
pub use pool::Workers;
pub use submit::{Executor, SubmitRequest, Submitted, device_of_jobs, execute, finish, submit, submit_dry};
pub use worker::{WorkerEnding, work, work_alone};

pub(crate) use in_process::run_here;
pub(crate) use plan::Plan;
pub(crate) use pool::Pool;
pub(crate) use task::{ARM, Lock, RESULT, Task, holder, task_folder};
