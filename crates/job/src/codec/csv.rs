//! Tables of numbers as comma-separated values.

use protocol::manifest::Dtype;

use super::CodecError;
use crate::array::{ARRAY_BYTES_MAX, Array, Rounding, push};

/// Reads a table of numbers as `[rows, columns]`, of f32 unless `wanted` says otherwise. A first line with a cell that is not
/// a number is a header.
pub fn decode(bytes: &[u8], wanted: Option<Dtype>) -> Result<Array, CodecError> {
    let malformed = |problem: String| CodecError::Malformed { format: ".csv", problem };
    let dtype = wanted.unwrap_or(Dtype::F32);
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(bytes);
    let (mut rows, mut columns, mut data) = (0u32, 0, Vec::new());
    for (line, record) in reader.records().enumerate() {
        let record = record.map_err(|error| malformed(error.to_string()))?;
        columns = record.len();
        if line == 0 && record.iter().any(|cell| cell.parse::<f64>().is_err()) {
            continue;
        }
        for (column, cell) in record.iter().enumerate() {
            let number: f64 = cell.parse().map_err(|_| {
                let line = record.position().map_or(line as u64 + 1, csv::Position::line);
                malformed(format!("line {line}, column {} is {cell:?}, not a number", column + 1))
            })?;
            let index = data.len() as u64 / dtype.bytes();
            push(&mut data, number, dtype, Rounding::Nearest, index)?;
        }
        if data.len() as u64 > ARRAY_BYTES_MAX {
            return Err(CodecError::TooLarge);
        }
        rows += 1;
    }
    if rows == 0 {
        return Err(malformed("there is no row of numbers".to_owned()));
    }
    Ok(Array { dtype, shape: vec![rows, columns as u32], bytes: data })
}

/// Writes a header and the rows.
pub fn encode(header: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = writer
        .write_record(header)
        .and_then(|()| rows.into_iter().try_for_each(|row| writer.write_record(row)));
    written.expect("every row has the header's length, and memory takes it");
    writer.into_inner().expect("memory takes it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_and_without_a_header() {
        for text in ["x, y\n1, 2.5\n-3,4e2\n", "1,2.5\n-3,400\n", "\u{feff}\"x\",\"y\"\r\n1,2.5\r\n-3,400"] {
            let array = decode(text.as_bytes(), None).unwrap();
            assert_eq!((array.dtype, &array.shape[..]), (Dtype::F32, &[2, 2][..]));
            let expected: Vec<u8> = [1.0f32, 2.5, -3.0, 400.0].iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(array.bytes, expected, "{text:?}");
        }
        assert_eq!(decode(b"1,2\n255,0\n", Some(Dtype::U8)).unwrap().bytes, [1, 2, 255, 0]);
    }

    #[test]
    fn what_is_not_a_table_of_numbers_says_where() {
        let check = |text: &str, dtype, expected: &str| {
            let error = decode(text.as_bytes(), dtype).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} does not say {expected:?}");
        };
        check("1,2\n3,x\n", None, "line 2, column 2 is \"x\"");
        check("1,2\n3\n", None, "found record with 1 fields");
        check("a,b\n", None, "no row");
        check("", None, "no row");
        check("1\n256\n", Some(Dtype::U8), "element 1 is 256");
    }

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let header = ["a,b".to_owned(), "c".to_owned()];
        let rows = vec![vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(String::from_utf8(encode(&header, rows)).unwrap(), "\"a,b\",c\n1,2\n");
    }
}
