export { createGrammar } from "./grammar.ts";
