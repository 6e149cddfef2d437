//! What units put out: real bytes, so that what is compared is what a service would compare.

use protocol::JobId;

use crate::chance::mixed;

/// Elements of an output; each has four bytes.
pub(super) const ELEMENTS: u64 = 64;
/// Bytes of an output.
pub(super) const BYTES: u64 = 4 * ELEMENTS;
/// Elements of a chunk: a quarter of the output.
const CHUNK: usize = 16;

/// An output.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Whole numbers, which are the same on every device.
    Whole(Vec<u32>),
    /// Floats.
    Floats(Vec<f32>),
}

/// The result of a unit on a device of this class. Floats of the two classes differ in their last bits, as fused and separate
/// multiply-adds do.
pub(super) fn right(job: JobId, unit: u64, exact: bool, class: u32) -> Content {
    let element = |n: u64| mixed(&[job.0, unit, n]);
    if exact {
        return Content::Whole((0..ELEMENTS).map(|n| element(n) as u32).collect());
    }
    let float = |n: u64| {
        let value = (element(n) % 2_000_000) as f32 / 1_000.0 - 1_000.0;
        let last_bits = if class > 0 && n.is_multiple_of(3) { 2 } else { 0 };
        f32::from_bits(value.to_bits() + last_bits)
    };
    Content::Floats((0..ELEMENTS).map(float).collect())
}

impl Content {
    /// As uploaded.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Whole(elements) => elements.iter().flat_map(|e| e.to_le_bytes()).collect(),
            Self::Floats(elements) => elements.iter().flat_map(|e| e.to_le_bytes()).collect(),
        }
    }

    /// Nothing.
    pub fn zeros() -> Self {
        Self::Whole(vec![0; ELEMENTS as usize])
    }

    /// Anything.
    pub fn noise(number: u64) -> Self {
        Self::Whole((0..ELEMENTS).map(|n| mixed(&[number, n]) as u32).collect())
    }

    /// With one wrong element.
    #[must_use]
    pub fn with_a_flaw(mut self, number: u64) -> Self {
        let at = (number % ELEMENTS) as usize;
        match &mut self {
            Self::Whole(elements) => elements[at] = elements[at].wrapping_add(1),
            Self::Floats(elements) => elements[at] += 1.0,
        }
        self
    }

    /// Only its first chunk; the others were not computed.
    #[must_use]
    pub fn first_chunk(mut self) -> Self {
        match &mut self {
            Self::Whole(elements) => elements[CHUNK..].fill(0),
            Self::Floats(elements) => elements[CHUNK..].fill(0.0),
        }
        self
    }

    /// As computed with fewer bits of precision.
    #[must_use]
    pub fn with_mantissa(mut self, bits: u32) -> Self {
        if let Self::Floats(elements) = &mut self {
            let lost = f32::MANTISSA_DIGITS - 1 - bits;
            for element in elements {
                *element = f32::from_bits(element.to_bits() >> lost << lost);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_result_differs_from_the_right_one() {
        let (job, truth) = (JobId(7), right(JobId(7), 3, true, 0));
        assert_eq!(truth, right(job, 3, true, 1), "whole numbers are the same everywhere");
        for wrong in [
            Content::zeros(),
            Content::noise(1),
            truth.clone().with_a_flaw(5),
            truth.clone().first_chunk(),
            right(job, 4, true, 0),
        ] {
            assert_ne!(wrong, truth);
            assert_eq!(wrong.bytes().len() as u64, BYTES);
        }
        assert_ne!(right(job, 3, false, 0), right(job, 3, false, 1), "floats differ in their last bits");
        assert_ne!(right(job, 3, false, 0), right(job, 3, false, 0).with_mantissa(10));
    }
}
