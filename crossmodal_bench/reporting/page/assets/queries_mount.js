"use strict";
/* Gives the part on single queries its data, once the page stands. */
mountQueries(document.getElementById("queries-browser"), JSON.parse(document.getElementById("queries-data").textContent));
