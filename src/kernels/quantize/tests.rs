//! Every route gives the same bits, every element is as near as its format has it, and nothing that is
//! no number passes for one.

use half::{bf16, f16};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::types::{Distribution, Rounding};

const FLOATS: [DataType; 4] = DataType::FLOATS;

fn as_type(data_type: DataType, values: &[f64]) -> Vec<u8> {
    let element = |value: &f64| match data_type {
        DataType::F16 => f16::from_f64(*value).to_ne_bytes().to_vec(),
        DataType::BF16 => bf16::from_f64(*value).to_ne_bytes().to_vec(),
        DataType::F32 => (*value as f32).to_ne_bytes().to_vec(),
        _ => value.to_ne_bytes().to_vec(),
    };
    values.iter().flat_map(element).collect()
}

fn from_type(data_type: DataType, bytes: &[u8]) -> Vec<f64> {
    let element = |bytes: &[u8]| match data_type {
        DataType::F16 => f16::from_ne_bytes(bytes.try_into().unwrap()).to_f64(),
        DataType::BF16 => bf16::from_ne_bytes(bytes.try_into().unwrap()).to_f64(),
        DataType::F32 => f32::from_ne_bytes(bytes.try_into().unwrap()).into(),
        _ => f64::from_ne_bytes(bytes.try_into().unwrap()),
    };
    bytes.chunks(data_type.size_bytes()).map(element).collect()
}

fn share(input: &[u8]) -> Share<'_> {
    Share {
        input,
        residual: None,
    }
}

fn encoded(codec: Codec, input: &[u8]) -> Vec<u8> {
    let mut encoded = vec![0xaa; codec.encoded_len_bytes(input.len())];
    codec.encode(share(input), Place::default(), &mut encoded);
    encoded
}

/// There and back again, as numbers.
fn round_trip(quantization: Quantization, data_type: DataType, values: &[f64]) -> Vec<f64> {
    let codec = Codec::new(quantization, data_type);
    let input = as_type(data_type, values);
    let mut output = vec![0; input.len()];
    codec.decode(&encoded(codec, &input), &mut output);
    from_type(data_type, &output)
}

/// Noise without a generator: the same in every run.
fn scattered(count: usize, seed: u64) -> impl Iterator<Item = f64> {
    (0..count as u64).map(move |i| {
        let mut x =
            (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd1b5_4a32_d192_ed03);
        x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 29;
        (x >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    })
}

/// How far an element of a block may be off, as the documentation has it: by half a step, and by what
/// rounding costs in the arithmetic and in the element's type.
fn bound(quantization: Quantization, data_type: DataType, block: &[f64], value: f64) -> f64 {
    let low = block.iter().copied().fold(f64::INFINITY, f64::min);
    let high = block.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let largest = high.max(-low);
    let steps = |codes: DataType, less: f64| match codes.size_bytes() {
        1 => 255.0 - less,
        2 => 65_535.0 - less,
        4 => 4_294_967_295.0 - less,
        _ => 2f64.powi(50) - 1.0 - less,
    };
    let half_step = match quantization.scheme {
        QuantizationScheme::MinMax(codes) => (high - low) / steps(codes, 0.0) / 2.0,
        QuantizationScheme::ZeroPointScale(codes) => (high - low) / steps(codes, 1.0) / 2.0,
        QuantizationScheme::Int8 => 1.008 * largest / 127.0 / 2.0,
        QuantizationScheme::Int4 => 1.008 * largest / 7.0 / 2.0,
        QuantizationScheme::MxFp8E4M3 => (value.abs() / 16.0).max(largest / 2f64.powi(18)),
        QuantizationScheme::MxFp8E5M2 => (value.abs() / 8.0).max(largest / 2f64.powi(31)),
        QuantizationScheme::MxFp4 => (value.abs() / 4.0).max(largest / 12.0),
    };
    let arithmetic = if quantization.is_double(data_type) {
        (2f64.powi(-48), f64::MIN_POSITIVE * 2.0)
    } else {
        (2f64.powi(-20), f64::from(f32::MIN_POSITIVE) * 2.0)
    };
    let unit = match data_type {
        DataType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        DataType::BF16 => (2f64.powi(-8), 2f64.powi(-134)),
        DataType::F32 => (2f64.powi(-23), 2f64.powi(-149)),
        _ => (2f64.powi(-52), 0.0),
    };
    // The multiple next to the largest number there is may not be one any more.
    let half_step = match largest > f64::from(f32::MAX) / 1.02 && largest <= f64::from(f32::MAX) {
        true => 2.0 * half_step,
        false => half_step,
    };
    half_step * 1.016 + largest * (arithmetic.0 + unit.0) + arithmetic.1 + unit.1
}

fn check_bounds(quantization: Quantization, data_type: DataType, values: &[f64]) {
    let values = from_type(data_type, &as_type(data_type, values));
    let found = round_trip(quantization, data_type, &values);
    let block = quantization.block_elements as usize;
    for (meant, found) in values.chunks(block).zip(found.chunks(block)) {
        for (value, found) in meant.iter().zip(found) {
            let (error, most) = (
                (value - found).abs(),
                bound(quantization, data_type, meant, *value),
            );
            assert!(
                error <= most,
                "{quantization} {data_type}: {value} became {found}, off by {error}, not {most}"
            );
        }
    }
}

/// Elements of every kind, and of every size that a float has.
fn any_bits(data_type: DataType, count: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), count * data_type.size_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Everything that a codec does, on every route, to the bit.
    #[test]
    fn every_route_gives_the_same_bits(
        (data_type, first, second) in prop::sample::select(&FLOATS[..]).prop_flat_map(|data_type| {
            (1usize..700).prop_flat_map(move |count| {
                (Just(data_type), any_bits(data_type, count), any_bits(data_type, count))
            })
        }),
        tame in any::<bool>(),
        finish in prop::option::of(2u32..9),
        key in prop::option::of(any::<u64>()),
        normal in any::<bool>(),
        (step, segment, rank) in any::<(u32, u32, u32)>(),
    ) {
        // Random bits hold a NaN in nearly every block: half of the time there is none.
        let tamed = |bytes: Vec<u8>| match tame {
            true => as_type(data_type, &from_type(data_type, &bytes).iter().map(|value| {
                if value.is_finite() { value % 7.0 } else { 1.0 }
            }).collect::<Vec<f64>>()),
            false => bytes,
        };
        let (first, second) = (tamed(first), tamed(second));
        let place = Place { rank, step, segment };
        let count = first.len() / data_type.size_bytes();
        for quantization in Quantization::all() {
            let mut quantization = quantization;
            if let Some(key) = key {
                quantization = quantization.rounding(Rounding::Stochastic { key });
            }
            if normal {
                quantization = quantization.distribution(Distribution::Normal);
            }
            for op in ReduceOp::ALL {
                let on = |route| {
                    let codec = Codec::on(route, quantization, data_type);
                    let received = encoded(codec, &first);
                    let mut sum = vec![0; received.len()];
                    let mut output = vec![0; first.len()];
                    let carried: Vec<f32> = scattered(count, 3).map(|value| value as f32).collect();
                    let mut dropped = vec![0; 4 * count];
                    let residual = Some(Residual { carried: carried.as_bytes(), dropped: &mut dropped });
                    let share = Share { input: &second, residual };
                    let combine = Combine { op, finish };
                    codec.combine(combine, &[&received, &received], share, place, &mut sum, Some(&mut output));
                    let mut decoded = vec![0; first.len()];
                    codec.decode(&sum, &mut decoded);
                    (received, sum, output, decoded, dropped)
                };
                let mut routes = Route::available();
                let portable = on(routes.next().unwrap());
                // The sum's output is what everybody decodes.
                prop_assert_eq!(&portable.2, &portable.3);
                for route in routes {
                    prop_assert_eq!(&on(route), &portable, "{} {} {:?}", quantization, data_type, route);
                }
            }
        }
    }

    /// Elements of one size, around any centre.
    #[test]
    fn an_element_is_off_by_no_more_than_its_format_allows(
        exponent in -40i32..30,
        centre in -1000.0f64..1000.0,
        count in 1usize..600,
        seed in any::<u64>(),
        block in prop::sample::select(vec![32u32, 128, 1024, 4096]),
    ) {
        for data_type in FLOATS {
            // What f16 has room for.
            let exponent = if data_type == DataType::F16 { exponent.clamp(-10, 4) } else { exponent };
            let values: Vec<f64> = scattered(count, seed)
                .map(|value| (value + centre) * 2f64.powi(exponent))
                .collect();
            for quantization in Quantization::all() {
                let block = if quantization.check(data_type).is_ok() && quantization.block_elements(block).check(data_type).is_ok() { block } else { quantization.block_elements };
                check_bounds(quantization.block_elements(block), data_type, &values);
            }
        }
    }

    /// Numbers of every size side by side.
    #[test]
    fn the_widest_ranges_stay_numbers(
        bits in prop::collection::vec(any::<u32>(), 1..300),
    ) {
        let values: Vec<f64> = bits
            .iter()
            .map(|bits| f64::from(f32::from_bits(*bits)))
            .map(|value| if value.is_finite() { value } else { f64::from(f32::MAX) })
            .collect();
        for quantization in Quantization::all() {
            for data_type in [DataType::F32, DataType::F64] {
                check_bounds(quantization, data_type, &values);
            }
        }
    }

    /// Whatever comes over the wire: no panic, and the one NaN if it is none of a number.
    #[test]
    fn garbage_decodes_to_something(bytes in prop::collection::vec(any::<u8>(), 4096), count in 1usize..300) {
        for quantization in Quantization::all() {
            for data_type in FLOATS {
                let on = |route| {
                    let codec = Codec::on(route, quantization, data_type);
                    let len = codec.encoded_len_bytes(count * data_type.size_bytes());
                    let mut output = vec![0; count * data_type.size_bytes()];
                    codec.decode(&bytes[..len], &mut output);
                    output
                };
                let mut routes = Route::available();
                let portable = on(routes.next().unwrap());
                for route in routes {
                    prop_assert_eq!(&on(route), &portable, "{} {}", quantization, data_type);
                }
                for (element, value) in portable.chunks(data_type.size_bytes()).zip(from_type(data_type, &portable)) {
                    let nan = as_type(data_type, &[f64::NAN]);
                    prop_assert!(!value.is_nan() || element == nan, "{quantization} {data_type} {element:x?}");
                }
            }
        }
    }
}

#[test]
fn blocks_of_equal_elements_are_exact_in_both_schemes_of_pccl() {
    for quantization in Quantization::all().filter(|quantization| {
        matches!(
            quantization.scheme,
            QuantizationScheme::MinMax(_) | QuantizationScheme::ZeroPointScale(_)
        )
    }) {
        for data_type in FLOATS {
            for value in [
                0.0,
                42.0,
                -1.0,
                0.333,
                1e-3,
                -65504.0,
                6e-8,
                f64::from(f32::MIN_POSITIVE) / 8.0,
            ] {
                let exact = from_type(data_type, &as_type(data_type, &[value]))[0];
                for count in [1, 2, 1023, 1024, 1025, 3000] {
                    let found = round_trip(quantization, data_type, &vec![value; count]);
                    assert!(
                        found.iter().all(|found| *found == exact),
                        "{quantization} {data_type} {value}"
                    );
                }
            }
        }
    }
}

#[test]
fn zero_is_exact_where_a_scheme_promises_it() {
    let values: Vec<f64> = scattered(1000, 1)
        .map(|value| if value > 0.3 { 0.0 } else { value })
        .collect();
    let schemes = Quantization::all()
        .filter(|quantization| !matches!(quantization.scheme, QuantizationScheme::MinMax(_)));
    for quantization in schemes {
        let found = round_trip(quantization, DataType::F32, &values);
        let zeros = values
            .iter()
            .zip(&found)
            .filter(|(value, _)| **value == 0.0);
        assert!(zeros.clone().count() > 100);
        assert!(
            zeros.into_iter().all(|(_, found)| *found == 0.0),
            "{quantization}"
        );
    }
}

#[test]
fn a_block_that_holds_no_number_is_nan_and_others_are_not() {
    for quantization in Quantization::all() {
        for data_type in FLOATS {
            for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let block = quantization.block_elements as usize;
                let mut values: Vec<f64> = scattered(3 * block, 5).collect();
                values[block + 7] = poison;
                let found = round_trip(quantization, data_type, &values);
                let is_nan =
                    |range: std::ops::Range<usize>| found[range].iter().all(|value| value.is_nan());
                let is_number = |range: std::ops::Range<usize>| {
                    found[range].iter().all(|value| value.is_finite())
                };
                assert!(
                    is_number(0..block)
                        && is_nan(block..2 * block)
                        && is_number(2 * block..3 * block),
                    "{quantization} {data_type} {poison}"
                );
            }
        }
    }
}

#[test]
fn what_a_nan_spoils_leaves_no_residual() {
    let codec = Codec::new(Quantization::int4(), DataType::F32);
    let mut input: Vec<f32> = scattered(256, 9).map(|value| value as f32).collect();
    input[200] = f32::NAN;
    let (carried, mut dropped) = (vec![0u8; 1024], vec![0xffu8; 1024]);
    let residual = Some(Residual {
        carried: &carried,
        dropped: &mut dropped,
    });
    let mut encoded = vec![0; codec.encoded_len_bytes(1024)];
    let share = Share {
        input: input.as_bytes(),
        residual,
    };
    codec.encode(share, Place::default(), &mut encoded);
    let dropped = from_type(DataType::F32, &dropped);
    assert!(dropped[..128].iter().any(|value| *value != 0.0));
    assert!(dropped[128..].iter().all(|value| *value == 0.0));
}

/// The residual holds what the sum lacks, in units of a contribution.
#[test]
fn what_is_dropped_is_kept() {
    for (op, factor) in [(ReduceOp::Sum, 1.0), (ReduceOp::Avg, 4.0)] {
        for quantization in Quantization::all() {
            let codec = Codec::new(quantization, DataType::F32);
            let numbers = |seed| {
                scattered(1500, seed)
                    .map(|value| value as f32)
                    .collect::<Vec<f32>>()
            };
            let (other, own, carried) = (numbers(1), numbers(2), numbers(3));
            let received = encoded(codec, other.as_bytes());
            let (mut sum, mut output, mut dropped) =
                (vec![0; received.len()], vec![0u8; 6000], vec![0u8; 6000]);
            let residual = Some(Residual {
                carried: carried.as_bytes(),
                dropped: &mut dropped,
            });
            let share = Share {
                input: own.as_bytes(),
                residual,
            };
            let combine = Combine {
                op,
                finish: Some(4),
            };
            codec.combine(
                combine,
                &[&received],
                share,
                Place::default(),
                &mut sum,
                Some(&mut output),
            );
            let mut decoded = vec![0; 6000];
            codec.decode(&received, &mut decoded);
            let (decoded, output, dropped) = (
                from_type(DataType::F32, &decoded),
                from_type(DataType::F32, &output),
                from_type(DataType::F32, &dropped),
            );
            for i in 0..1500 {
                let meant = decoded[i] + f64::from(own[i]) + f64::from(carried[i]);
                let found = output[i] * factor + dropped[i];
                assert!(
                    (meant - found).abs() < 1e-5,
                    "{quantization} {op}: {meant} {found}"
                );
            }
        }
    }
}

/// The bias of rounding: the mean error is within five standard errors of zero, for each rounding.
#[test]
fn the_mean_error_is_that_of_a_sample_around_zero() {
    let values: Vec<f64> = scattered(1 << 16, 11)
        .map(|value| f64::from(value as f32))
        .collect();
    for quantization in Quantization::all().filter(|q| q.code_bits() <= 16) {
        for rounding in [Rounding::Nearest, Rounding::Stochastic { key: 1 }] {
            let quantization = quantization.rounding(rounding);
            let found = round_trip(quantization, DataType::F32, &values);
            let errors = values
                .iter()
                .zip(&found)
                .map(|(value, found)| found - value);
            let mean = errors.clone().sum::<f64>() / values.len() as f64;
            let variance = errors.map(|error| error * error).sum::<f64>() / values.len() as f64;
            let standard_error = (variance / values.len() as f64).sqrt();
            assert!(
                mean.abs() < 5.0 * standard_error,
                "{quantization}: {mean}, {standard_error}"
            );
        }
    }
}

/// Many roundings of one element have it for their mean; to nearest they would all be the same.
#[test]
fn stochastic_rounding_has_the_element_for_its_expectation() {
    // Not among the values of any format, beside one that sets the scale.
    let mut values = vec![0.3141; 32];
    values[0] = 1.0;
    for quantization in Quantization::all().filter(|q| q.code_bits() <= 8) {
        let runs = 4000;
        let found: Vec<f64> = (0..runs)
            .map(|key| {
                let quantization = quantization.rounding(Rounding::Stochastic { key });
                round_trip(quantization, DataType::F32, &values)[5]
            })
            .collect();
        let mean = found.iter().sum::<f64>() / runs as f64;
        let variance = found
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / runs as f64;
        assert!(variance > 0.0, "{quantization}");
        let standard_error = (variance / runs as f64).sqrt();
        assert!(
            (mean - 0.3141).abs() < 5.0 * standard_error + 1e-5,
            "{quantization}: {mean}, {standard_error}"
        );
    }
}

/// Clipping pays for a normal block with outliers, and costs next to nothing where there are none.
#[test]
fn a_normal_block_with_outliers_is_more_exact_when_they_are_clipped() {
    // A sum of twelve uniform numbers is about normal.
    let mut values: Vec<f64> = (0..1024)
        .map(|i| scattered(12, 1000 + i).sum::<f64>())
        .collect();
    values[17] = 60.0;
    let square_error = |quantization| {
        let found = round_trip(quantization, DataType::F32, &values);
        let errors = values
            .iter()
            .zip(&found)
            .enumerate()
            .filter(|(i, _)| *i != 17);
        errors
            .map(|(_, (value, found))| (value - found).powi(2))
            .sum::<f64>()
    };
    for quantization in [
        Quantization::zero_point_scale(DataType::U8),
        Quantization::int8(),
        Quantization::int4(),
    ] {
        let quantization = quantization.block_elements(1024);
        let clipped = square_error(quantization.distribution(Distribution::Normal));
        let whole = square_error(quantization);
        assert!(clipped < whole / 4.0, "{quantization}: {clipped}, {whole}");
    }
}

/// The microscaling formats as the specification draws them: sign, exponent, fraction.
fn microscaling_value(code: u32, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let bias = (1 << (exponent_bits - 1)) - 1;
    let sign = if code >> (exponent_bits + fraction_bits) & 1 == 1 {
        -1.0
    } else {
        1.0
    };
    let exponent = (code >> fraction_bits & ((1 << exponent_bits) - 1)) as i32;
    let fraction = f64::from(code & ((1 << fraction_bits) - 1)) / f64::from(1 << fraction_bits);
    match (exponent_bits, fraction_bits, exponent, fraction) {
        (4, 3, 15, 0.875) => f64::NAN,
        (5, 2, 31, 0.0) => sign * f64::INFINITY,
        (5, 2, 31, _) => f64::NAN,
        (_, _, 0, _) => sign * fraction * 2f64.powi(1 - bias),
        _ => sign * (1.0 + fraction) * 2f64.powi(exponent - bias),
    }
}

#[test]
fn microscaling_codes_are_those_of_the_specification() {
    for (quantization, exponent_bits, fraction_bits) in [
        (Quantization::mx_fp8_e4m3(), 4, 3),
        (Quantization::mx_fp8_e5m2(), 5, 2),
        (Quantization::mx_fp4(), 2, 1),
    ] {
        let codec = Codec::new(quantization, DataType::F32);
        let codes = 1u32 << (1 + exponent_bits + fraction_bits);
        for code in 0..codes {
            for exponent in [-127i32, -100, 0, 3] {
                let byte = if codes == 16 { code | code << 4 } else { code } as u8;
                let mut bytes = vec![byte; codec.encoded_len_bytes(32 * 4)];
                bytes[0] = (exponent + 127) as u8;
                let mut output = vec![0; 32 * 4];
                codec.decode(&bytes, &mut output);
                let expected = (microscaling_value(code, exponent_bits, fraction_bits)
                    * 2f64.powi(exponent)) as f32;
                for found in from_type(DataType::F32, &output) {
                    assert!(
                        found == f64::from(expected) || found.is_nan() && expected.is_nan(),
                        "{code:x} {exponent}"
                    );
                }
            }
        }
        // Of all numbers the nearest is taken.
        let numbers: Vec<f64> = (0..codes)
            .map(|code| microscaling_value(code, exponent_bits, fraction_bits))
            .filter(|value| value.is_finite())
            .collect();
        let largest = numbers.iter().copied().fold(0.0, f64::max);
        for value in scattered(2000, 13).map(|value| f64::from((2.0 * value * largest) as f32)) {
            let mut values = vec![value; 32];
            values[0] = largest;
            let found = round_trip(quantization, DataType::F32, &values)[1];
            let nearest = numbers
                .iter()
                .map(|number| (number - value).abs())
                .fold(f64::MAX, f64::min);
            assert_eq!(
                (found - value).abs(),
                nearest,
                "{quantization} {value} became {found}"
            );
        }
    }
}

#[test]
fn forty_two_and_forty_three_are_eighty_five() {
    for quantization in [
        Quantization::zero_point_scale(DataType::U8),
        Quantization::min_max(DataType::U8),
    ] {
        for data_type in FLOATS {
            let codec = Codec::new(quantization, data_type);
            let (one, other) = (
                as_type(data_type, &[42.0; 1024]),
                as_type(data_type, &[43.0; 1024]),
            );
            let received = encoded(codec, &one);
            let (mut sum, mut output) = (vec![0; received.len()], vec![0; one.len()]);
            let combine = Combine {
                op: ReduceOp::Sum,
                finish: Some(2),
            };
            codec.combine(
                combine,
                &[&received],
                share(&other),
                Place::default(),
                &mut sum,
                Some(&mut output),
            );
            assert_eq!(output, as_type(data_type, &[85.0; 1024]));
        }
    }
}

/// Steps there are wider than what is left to infinity.
#[test]
fn blocks_next_to_the_largest_number_are_encoded_and_stay_numbers() {
    let f32s = [f32::MAX, f32::MAX.next_down(), f32::MAX * 0.999].map(f64::from);
    let f64s = [f64::MAX, f64::MAX.next_down(), f64::MAX * 0.999];
    for quantization in Quantization::all() {
        for (data_type, [most, next, less]) in [(DataType::F32, f32s), (DataType::F64, f64s)] {
            for block in [
                [most, next],
                [most, less],
                [-most, -next],
                [-less, -most],
                [-most, most],
            ] {
                let found = round_trip(quantization, data_type, &block);
                let is_beyond_f32 =
                    data_type == DataType::F64 && !quantization.is_double(data_type);
                for (value, found) in block.iter().zip(&found) {
                    let most = 2.0 * bound(quantization, data_type, &block, *value);
                    let is_near = (value - found).abs() <= most || most.is_infinite();
                    // Formats that calculate in f32 take what it has no room for as infinite.
                    assert!(
                        is_beyond_f32 && found.is_nan() || found.is_finite() && is_near,
                        "{quantization} {data_type}: {value:e} became {found:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_ends_of_the_widest_ranges_are_within_a_step() {
    let largest = f64::from(f32::MAX);
    let near = || (0..80).map(|i| largest * (1.0 - f64::from(i) / 4096.0));
    let ranges = near().flat_map(|low| near().map(move |high| [-low, high]));
    // Among these are some whose upper end is as near to one code as to the next.
    let to_the_largest = (0..20_000).map(|i| [-largest * f64::from(i) / 20_000.0, largest]);
    for range in ranges.chain(to_the_largest) {
        for codes in [DataType::U8, DataType::I16] {
            check_bounds(Quantization::min_max(codes), DataType::F32, &range);
            check_bounds(Quantization::zero_point_scale(codes), DataType::F32, &range);
        }
    }
}
