import { commandBackend } from "./command";
import { describeConformance } from "./suite";

describeConformance("command, with all programs", () => commandBackend());
