//! Seeds whose worlds once found a fault of the library, which was mended. A change of what peers
//! say, or when, makes other worlds of them; they stay, as worlds that are worth playing.

use super::assert_clean;

#[test]
fn worlds_that_once_went_wrong_are_right() {
    assert_clean([
        140_011_605,
        140_013_766,
        120_000_950,
        258,
        314,
        357,
        401,
        437,
        670,
        821,
    ]);
}
