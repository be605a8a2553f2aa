// ssh's ProxyCommand to a port of this host: `slow-link.mjs PORT BYTES_PER_SECOND` passes no more than that on.
import { connect } from "node:net";
import { setTimeout } from "node:timers/promises";

const [port, bytesPerSecond] = process.argv.slice(2).map(Number);
const socket = connect(port, "127.0.0.1");
socket.on("error", (error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
socket.on("close", () => process.exit(0));
socket.pipe(process.stdout);
let due = Date.now();
for await (const chunk of process.stdin) {
  socket.write(chunk);
  due = Math.max(due, Date.now()) + (chunk.length / bytesPerSecond) * 1000;
  // Timers are too coarse for single chunks.
  if (due - Date.now() > 10) {
    await setTimeout(due - Date.now());
  }
}
socket.end();
