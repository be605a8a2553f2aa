import { connect } from "node:net";

/**
 * ssh's ProxyCommand: `gate-client.js SOCKET HOST PORT` joins stdin and stdout with a port of a guest, through the gate
 * of the site.
 */
function main([path = "", host = "", port = ""]: string[]): void {
  const fail = (reason: string) => {
    process.stderr.write(`${reason}\n`);
    process.exit(1);
  };
  const gate = connect({ path, allowHalfOpen: true });
  gate.on("error", (error: NodeJS.ErrnoException) => {
    const absent = error.code === "ENOENT" || error.code === "ECONNREFUSED";
    fail(absent ? "The default site isn't running: start it first." : `${host} port ${port} doesn't answer.`);
  });
  gate.on("connect", () => {
    gate.write(`${host} ${port}\n`);
    process.stdin.pipe(gate);
    gate.pipe(process.stdout);
  });
  // Node can't close its stdout, and ssh waits for that: the end of what the guest sends is the end of this process.
  gate.on("end", () => {
    if (gate.bytesRead === 0) {
      fail(`${host} port ${port} doesn't answer.`);
    }
    process.stdout.write("", () => process.exit(0));
  });
  process.stdout.on("error", () => process.exit(0));
}

main(process.argv.slice(2));
