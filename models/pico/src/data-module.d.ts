/** What bundlers for Workers make of such an import, once told that it is data. */
declare module "*.gguf" {
  const bytes: ArrayBuffer;
  export default bytes;
}
