import { rocksBackend } from "./rocks";
import { describeConformance } from "./suite";

describeConformance("rocks", rocksBackend);
