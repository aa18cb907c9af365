"use strict";
/* Passes the query browser its data once the page is loaded. */
mountQueries(document.getElementById("queries-browser"), JSON.parse(document.getElementById("queries-data").textContent));
