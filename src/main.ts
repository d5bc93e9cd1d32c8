/** Launches the server; nothing else. */
import { launch } from "./launch.ts"
import * as Server from "./Server.ts"

launch(Server.layer)
