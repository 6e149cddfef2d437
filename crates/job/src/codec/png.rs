//! Pictures as PNG, 8 bits a channel.

use std::io::Cursor;

use protocol::manifest::Dtype;

use super::CodecError;
use crate::array::{ARRAY_BYTES_MAX, Array};

/// Reads a picture as u8 `[height, width, channels]`: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. Palettes are expanded and 16 bits
/// reduced to 8. With `wanted` f32 the values are 0..1 instead of 0..255.
pub fn decode(bytes: &[u8], wanted: Option<Dtype>) -> Result<Array, CodecError> {
    let malformed =
        |error: ::png::DecodingError| CodecError::Malformed { format: ".png", problem: error.to_string() };
    let limits = ::png::Limits { bytes: ARRAY_BYTES_MAX as usize };
    let mut decoder = ::png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(::png::Transformations::EXPAND | ::png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(malformed)?;
    let size = reader.output_buffer_size().filter(|size| *size as u64 <= ARRAY_BYTES_MAX);
    let mut pixels = vec![0; size.ok_or(CodecError::TooLarge)?];
    let frame = reader.next_frame(&mut pixels).map_err(malformed)?;
    pixels.truncate(frame.buffer_size());
    let channels = frame.color_type.samples() as u32;
    let array = Array { dtype: Dtype::U8, shape: vec![frame.height, frame.width, channels], bytes: pixels };
    match wanted {
        Some(Dtype::F32) => {
            let bytes = array.bytes.iter().flat_map(|v| (f32::from(*v) / 255.0).to_le_bytes()).collect();
            Ok(Array { dtype: Dtype::F32, bytes, ..array })
        }
        Some(dtype) => Ok(array.convert(dtype)?),
        None => Ok(array),
    }
}

/// Writes 8-bit samples of `channels` (1 grey, 2 grey and alpha, 3 RGB, 4 RGBA) as sRGB.
pub fn encode(width: u32, height: u32, channels: u32, samples: &[u8]) -> Result<Vec<u8>, CodecError> {
    let unwritable = |problem| CodecError::Unwritable {
        format: ".png",
        dtype: Dtype::U8,
        shape: vec![height, width, channels],
        problem,
    };
    let color = match channels {
        1 => ::png::ColorType::Grayscale,
        2 => ::png::ColorType::GrayscaleAlpha,
        3 => ::png::ColorType::Rgb,
        4 => ::png::ColorType::Rgba,
        _ => return Err(unwritable("a picture has 1 to 4 channels")),
    };
    if width == 0 || height == 0 {
        return Err(unwritable("it has no pixels"));
    }
    let mut file = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_depth(::png::BitDepth::Eight);
    encoder.set_source_srgb(::png::SrgbRenderingIntent::Perceptual);
    let mut writer = encoder.write_header().map_err(|_| unwritable("it is too large"))?;
    writer.write_image_data(samples).map_err(|_| unwritable("the samples do not fill it"))?;
    writer.finish().map_err(|_| unwritable("the samples do not fill it"))?;
    Ok(file)
}

/// One display-encoded sample as 8 bits: f32 and f16 0..1 clamped and rounded (NaN is 0), integers clamped to 0..255.
pub(crate) fn sample(value: f64, dtype: Dtype) -> u8 {
    // `as` saturates, and takes a NaN to 0.
    if dtype.is_float() { (value * 255.0 + 0.5) as u8 } else { value as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_reads_back() {
        for channels in 1..=4 {
            let samples: Vec<u8> = (0..2 * 3 * channels).map(|i| (i * 9) as u8).collect();
            let file = encode(3, 2, channels, &samples).unwrap();
            let array = decode(&file, None).unwrap();
            assert_eq!(array, Array { dtype: Dtype::U8, shape: vec![2, 3, channels], bytes: samples });
        }
    }

    #[test]
    fn floats_are_a_share_of_white() {
        let file = encode(2, 1, 1, &[0, 255]).unwrap();
        let array = decode(&file, Some(Dtype::F32)).unwrap();
        assert_eq!(array.bytes, [0f32.to_le_bytes(), 1f32.to_le_bytes()].concat());
        for (value, expected) in
            [(0.0, 0), (1.0, 255), (0.5, 128), (-3.0, 0), (7.0, 255), (f64::NAN, 0), (f64::INFINITY, 255)]
        {
            assert_eq!(sample(value, Dtype::F32), expected, "{value}");
        }
        assert_eq!(sample(300.0, Dtype::I32), 255);
    }

    #[test]
    fn what_is_not_a_picture_is_refused() {
        assert!(matches!(decode(b"GIF89a", None), Err(CodecError::Malformed { .. })));
        let file = encode(2, 1, 1, &[0, 255]).unwrap();
        assert!(decode(&file[..file.len() - 20], None).is_err(), "cut off");
        assert!(encode(0, 1, 1, &[]).is_err());
        assert!(encode(1, 1, 5, &[0; 5]).is_err());
        assert!(encode(2, 2, 1, &[0; 3]).is_err());
    }
}
