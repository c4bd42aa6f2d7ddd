/** The pattern of GPT-2, which ByteLevel in tokenizer.json stands for as well. */
export const gpt2Pattern: string =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const spaces = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** Words may start with one sign; digits in groups. */
const modern = (digits: string, word = "\\p{L}", signs = "\\p{L}\\p{N}"): string =>
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?${word}+|${digits}| ?[^\\s${signs}]+[\\r\\n]*|${spaces}`;

/** Words also end where a capital follows a small letter. */
const cased = (contraction: string, digits: string): string => {
  const lead = "[^\\r\\n\\p{L}\\p{N}]?";
  const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
  const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
  return [
    `${lead}${upper}*${lower}+${contraction}`,
    `${lead}${upper}+${lower}*${contraction}`,
    digits,
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*",
    spaces,
  ].join("|");
};

const deepseekMain =
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" +
  spaces;
/** The letters that DeepSeek counts as cased: code points, since some would not survive Unicode normalization. */
const deepseekLetters = (
  "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A " +
  "38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF " +
  "1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D " +
  "1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 " +
  "1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F " +
  "2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F " +
  "A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 " +
  "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
  .split(" ")
  .map((range) => range.replace(/[^-]+/g, (digits) => String.fromCodePoint(Number.parseInt(digits, 16))))
  .join("");
const bloom = " ?[^(\\s|.,!?…。，、।۔،)]+";

/** How a family of byte-level tokenizers cuts text into words. */
export interface PreTokenizerFamily {
  /** As `tokenizer.ggml.pre` of GGUF files has them, the family's own first. */
  readonly names: readonly string[];
  /** In Oniguruma's syntax, as in tokenizer.json; applied in turn, each to the matches and gaps that the one before left. */
  readonly patterns: readonly string[];
  /** A word that is a token is taken whole. */
  readonly ignoreMerges?: true;
  /** Whether bos is added where the file doesn't say. */
  readonly addBos?: true;
}

/** GGUF names the family, tokenizer.json spells out the patterns: readers go through the table one way, writers the other. */
export const preTokenizers: readonly PreTokenizerFamily[] = [
  {
    names: (
      "gpt-2 phi-2 mpt olmo jais trillion granite-docling jina-es jina-de jina-v2-es jina-v2-de jina-v1-en " +
      "jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert exaone4"
    ).split(" "),
    patterns: [gpt2Pattern],
  },
  {
    names: "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano".split(" "),
    patterns: [modern("\\p{N}{1,3}")],
    ignoreMerges: true,
    addBos: true,
  },
  { names: ["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], patterns: [modern("\\p{N}{1,3}")] },
  {
    names: "qwen2 stablelm2 deepseek-r1-qwen hunyuan solar-open megrez grok-2 kormo f2llmv2".split(" "),
    patterns: [modern("\\p{N}")],
  },
  { names: ["qwen35"], patterns: [modern("\\p{N}", "[\\p{L}\\p{M}]", "\\p{L}\\p{M}\\p{N}")] },
  {
    names: "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2".split(" "),
    patterns: ["\\p{N}", gpt2Pattern],
  },
  { names: ["falcon"], patterns: ["[\\p{P}$+<=>^~|`]+", gpt2Pattern, "[0-9][0-9][0-9]"] },
  {
    names: ["deepseek-llm"],
    patterns: [
      "[\\r\\n]",
      `\\s?[${deepseekLetters}]+`,
      "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
      "\\s+$",
      "[一-龥ࠀ-一가-\uD7FF]+",
      "\\p{N}+",
    ],
  },
  {
    names: ["deepseek-coder"],
    patterns: ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-\uD7FF]+", "\\p{N}"],
  },
  {
    names: ["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
    patterns: ["\\p{N}{1,3}", "[一-龥\u3040-\u30FF]+", deepseekMain],
  },
  {
    names: ["gpt-4o", "llama4", "minimax-m2", "kanana2", "talkie"],
    patterns: [cased(`${contractions}?`, "\\p{N}{1,3}")],
  },
  { names: ["tekken"], patterns: [cased("", "\\p{N}")], ignoreMerges: true, addBos: true },
  { names: ["bloom", "gpt3-finnish", "poro-chat"], patterns: [bloom] },
  { names: ["viking"], patterns: [bloom, "\\p{N}"] },
  {
    names: ["chameleon"],
    patterns: [
      "<sentinel:[0-9]+>",
      "IMGIMG[A-I]{1,4}Z",
      "[\\t\\n]|    |  ",
      "\\p{N}",
      "[\\p{P}!-/:-@\\[-`\\{-~]",
      gpt2Pattern,
    ],
    addBos: true,
  },
  {
    names: ["seed-coder"],
    patterns: [`${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|${spaces}`],
  },
  { names: ["default"], patterns: ["[\\p{P}$+<=>^~|]+", gpt2Pattern, "\\p{N}+", "[0-9][0-9][0-9]"] },
];
