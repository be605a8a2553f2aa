import { z } from "zod";

const seconds = z.number("must be a number of seconds");

/** How long a node's operations may take, seconds. */
export const timeouts = z.strictObject({
  /** Until a new node is ready. Default 300. */
  create: seconds.positive("must be positive").optional(),
  /** Until a changed node is ready again. Default 300. */
  update: seconds.positive("must be positive").optional(),
  /** For a guest to shut down by itself before it is removed. Default 0: its power is taken at once. */
  delete: seconds.min(0, "must not be negative").optional(),
});
export type Timeouts = z.output<typeof timeouts>;
