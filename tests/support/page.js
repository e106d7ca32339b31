// Runs the script of a page without a browser: `node page.js FILE HASH`. Prints, as a JSON string a line, each text that it shows.
const page = require("fs").readFileSync(process.argv[2], "utf8");
const script = page.match(/<script>([^]*)<\/script>/)[1];
globalThis.location = {hash: process.argv[3]};
globalThis.document = {
  getElementById: () => ({set textContent(text) { process.stdout.write(JSON.stringify(text) + "\n"); }}),
};
new Function(script)();
