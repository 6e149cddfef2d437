import { expect, test } from 'vitest';

import { count, microseconds, percent, plural, sentence, shortKey, tokens } from '../src/format.js';

test('amounts are written in tokens, exactly', () => {
  expect(tokens('0')).toBe('0');
  expect(tokens('1')).toBe('0.000000001');
  expect(tokens('1234500000000')).toBe('1,234.5');
  expect(tokens('18446744073709551615')).toBe('18,446,744,073.709551615');
});

test('counts of any size keep every digit', () => {
  expect(count('18446744073709551615')).toBe('18,446,744,073,709,551,615');
  expect(plural('1', 'unit')).toBe('1 unit');
  expect(plural(75, 'unit')).toBe('75 units');
});

test('a share of nothing is nothing', () => {
  expect(percent('0', '0')).toBe(0);
  expect(percent('1', '3')).toBe(33.33);
  expect(percent('18446744073709551615', '18446744073709551615')).toBe(100);
});

test('keys are shortened, times scaled', () => {
  expect(shortKey('D5qQCnAgn4LBUF3pBXBMov1kVfEE7F8EZJj6jyxoaH6x')).toBe('D5qQ…aH6x');
  expect([900, 1500, 25_000, 3_200_000, 61_000_000].map(microseconds)).toEqual([
    '900 µs',
    '1.5 ms',
    '25 ms',
    '3.2 s',
    '61 s',
  ]);
});

test('reasons become sentences', () => {
  expect(['nobody wants anything computed', 'Done.', ''].map(sentence)).toEqual([
    'Nobody wants anything computed.',
    'Done.',
    '',
  ]);
});
