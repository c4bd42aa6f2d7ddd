import fc from "fast-check";

/** Text as hostile to tokenizers as text from outside gets; `literals` are the vocabulary's own special tokens. */
export function hostileText(literals: readonly string[]): fc.Arbitrary<string> {
  const oneOf = (units: string, maxLength: number) =>
    fc.string({ unit: fc.constantFrom(...units), maxLength });
  const pieces = (...texts: string[]) => fc.constantFrom(...texts);
  const piece = fc.oneof(
    fc.string({ unit: "grapheme", maxLength: 12 }),
    fc.string({ unit: "binary", maxLength: 6 }),
    fc.string({ maxLength: 12 }),
    pieces(
      "🙂",
      "👩‍👩‍👧‍👦",
      "🇫🇷",
      "👍🏽",
      "🤦🏼‍♂️",
      "é",
      "e\u0301",
      "a\u0308\u0323",
      "ก็",
      "हिन्दी",
      "العربية",
      "한국어",
    ),
    pieces("東京都", "中文字符", "ひらがな", "カタカナ", "Straße", "ﬁ", "ǅ", "İ", "ΣΑΣ"),
    oneOf(" \n\t\r\u00a0\u3000\u2028\u0085\ufeff\u200b", 6),
    oneOf("019٣½²Ⅷ.", 6),
    oneOf("\0\x01\x1b\x7f\x9f\ufffd", 3),
    pieces("'s", "'LL", "'Re", "'ſ", "don't", "I'M", "'d "),
    fc.constantFrom(...literals),
    pieces("<|", "|>", "<|im_end", "<s>", "</s", "<0x41>", "▁", "▁▁", "<unused9", "##x"),
    pieces("Hello", " world", "function() {", "return x;\n    ", "http://a.b/c?d=e", "ABCdef", "!!!", "..."),
  );
  return fc.array(piece, { maxLength: 10 }).map((parts) => parts.join(""));
}
