use crate::Gaussian;
use heldout_testkit::check_noise_source;

#[test]
fn gaussian_noise_keeps_the_law() {
    check_noise_source(&mut Gaussian);
}
