/// Finds what a misspelt name was meant to be.
package enum ConfigurationSuggestion {
    /// The candidate with the fewest edits from `name`, regardless of case; nil where none is near: within a third of the name's length.
    ///
    /// Complexity: O(candidates × length²), for names of at most 64 characters; longer ones have no suggestion.
    package static func nearest(to name: String, in candidates: [String]) -> String? {
        let wanted = Array(name.lowercased().utf8)
        guard (1...64).contains(wanted.count) else { return nil }
        var best: (name: String, edits: Int)?
        for candidate in candidates {
            let edits = distance(wanted, Array(candidate.lowercased().utf8))
            if edits <= max(1, wanted.count / 3), edits < best?.edits ?? .max { best = (candidate, edits) }
        }
        return best?.name
    }

    /// Edits (insert, delete, replace, swap neighbours) between two texts: optimal string alignment, three rows at a time.
    private static func distance(_ left: [UInt8], _ right: [UInt8]) -> Int {
        var beforePrevious: [Int] = []
        var previous = Array(0...right.count)
        for i in left.indices {
            var current = [i + 1]
            for j in right.indices {
                var edits = min(previous[j + 1] + 1, current[j] + 1, previous[j] + (left[i] == right[j] ? 0 : 1))
                if i > 0, j > 0, left[i] == right[j - 1], left[i - 1] == right[j] { edits = min(edits, beforePrevious[j - 1] + 1) }
                current.append(edits)
            }
            beforePrevious = previous
            previous = current
        }
        return previous[right.count]
    }
}
